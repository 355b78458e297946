"""Sends 20 MiB to a host of the gate without a credential, with clients that read no answer before they have sent all:
http.client with a length and with chunks. Prints the status of each.

Start: python blunt.py ADDRESS PORT HOST CA_FILE
"""

import http.client
import socket
import ssl
import sys

address, port, host, ca_file = sys.argv[1:]
context = ssl.create_default_context(cafile=ca_file)
body = bytes(1 << 20)
statuses = []
for chunked in [False, True]:
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
    # No name server knows the host.
    plain = socket.create_connection((address, int(port)), 30)
    connection.sock = context.wrap_socket(plain, server_hostname=host)
    pieces = (body for _ in range(20))
    if chunked:
        connection.request("PUT", "/sink", body=pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    else:
        connection.request("PUT", "/sink", body=pieces, headers={"Content-Length": str(20 << 20)})
    response = connection.getresponse()
    text = response.read().decode()
    assert "decision_id" in text, text
    statuses.append(str(response.status))
    connection.close()
print(" ".join(statuses))
