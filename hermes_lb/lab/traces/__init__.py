"""Recorded traffic: one format a file, each with its reader.

formats         the registry: a format is recognised by the file's first line
columns         tables in CSV
access_log      ours and HAProxy's, `httplog`
agent_sessions  model calls of coding agents (callanjfox/kv-cache-tester)
azure_llm       Azure's traces of LLM inference (Azure/AzurePublicDataset)
mooncake        requests with the hashes of their blocks (kvcache-ai/Mooncake)
"""

from hermes_lb.lab.traces.formats import FORMATS, read, read_log

__all__ = ["FORMATS", "read", "read_log"]
