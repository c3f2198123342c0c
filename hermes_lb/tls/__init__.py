"""TLS towards clients.

client_hello        the first record, read for the host name
certificates        certificate and key files, reloaded when they change
x509                the names in a certificate
ticket_keys         keys of session tickets, rotated and shared by processes
handshake           the TLS layer of a client connection; `records` bounds what it reads
above               the connection above that layer, as the layer sees it
client_certificate  header fields about a client's certificate
"""
