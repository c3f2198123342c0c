"""What is kept outside of Redis; each part is optional.

base               the protocols: blobs, memory, preferences, archive, the strict ledger
opening            opens what the worker is told to use; `setup`: errors and names for all of them
blobs              large texts, in a directory or in S3
postgres           all but blobs, over postgres_database; its tables: postgres_schema
qdrant             memories, instead of pgvector
embedding          texts as vectors
postgres_server    an embedded PostgreSQL; postgres_place: its directory, and programs where need be
"""
