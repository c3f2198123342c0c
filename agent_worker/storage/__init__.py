"""Stores other than Redis; each is optional.

base                 the protocols: blobs, memory, preferences, archive, the strict ledger
opening              opens the configured stores; `setup`: errors and identities for all of them
blobs                large texts, in a directory or in S3
postgres             all but blobs; postgres_database: its pool, postgres_schema: its tables
qdrant               memories, instead of pgvector
embedding            texts as vectors
postgres_server      an embedded PostgreSQL; postgres_directory: its directory
"""
