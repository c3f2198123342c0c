"""Bounds of the parser that no user has a reason to change, each with its precedents.

Those that one may want to change are in the configuration (`[limits]`): the size of a head
(nginx 4 x 8 KiB, HAProxy 16 KiB, Node 16 KiB, h11 16 KiB) and the number of its fields (HAProxy
101, Apache 100, Go 1 MiB of whatever).
"""

# Of a request target, in bytes. RFC 9110 section 4.1 asks for at least 8,000; nginx 8 KiB.
TARGET_SIZE = 16 * 1024

# Of one chunk's extension, in bytes. Nobody uses them; Go bounds them after CVE-2023-39326.
CHUNK_EXTENSION_SIZE = 4 * 1024

# Of all trailers of a message, in bytes; they are dropped anyway.
TRAILERS_SIZE = 8 * 1024

# Informational responses before the final one. Go's client stops at 5, HAProxy does not.
INFORMATIONAL_RESPONSES = 32
