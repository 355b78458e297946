"""A client of 1 KiB a second: uploads and downloads SECONDS KiB at once, and prints what the server got as JSON.

Start: python slow.py ADDRESS PORT HOST CA_FILE AUTHORIZATION SECONDS
"""

import hashlib
import json
import socket
import ssl
import sys
import threading
import time

address, port, host, ca_file, authorization, seconds = sys.argv[1:]
length = int(seconds) * 1024
context = ssl.create_default_context(cafile=ca_file)


def connect():
    plain = socket.socket()
    # With the system's buffer, the client would take a minute's bytes at once.
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(60)
    plain.connect((address, int(port)))
    return context.wrap_socket(plain, server_hostname=host)


def head(line, *more):
    lines = [line, f"Host: {host}:{port}", f"Authorization: {authorization}", "Connection: close", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def block():
    """The bytes of servers/block.mjs, as many as are needed."""
    state, made = 1, bytearray()
    while len(made) < length:
        state = (state * 1664525 + 1013904223) % 2**32
        made += state.to_bytes(4, "little")
    return bytes(made[:length])


def up(body, result):
    with connect() as connection:
        connection.sendall(head("PUT /sink HTTP/1.1", f"Content-Length: {length}"))
        for at in range(0, length, 1024):
            connection.sendall(body[at : at + 1024])
            time.sleep(1)
        answer = bytearray()
        while data := connection.recv(4096):
            answer += data
    result["up"] = bytes(answer)


def down(result):
    with connect() as connection:
        connection.sendall(head(f"GET /source?bytes={length} HTTP/1.1"))
        answer = bytearray()
        while data := connection.recv(1024):
            answer += data
            time.sleep(len(data) / 1024)
    result["down"] = bytes(answer)


body, result = block(), {}
threads = [threading.Thread(target=up, args=(body, result)), threading.Thread(target=down, args=(result,))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
start, _, received = result["down"].partition(b"\r\n\r\n")
assert b" 200 " in start, start
assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest(), len(received)
start, _, answer = result["up"].partition(b"\r\n\r\n")
assert b" 200 " in start, (start, answer)
# The answer may come in chunks; the JSON is one line of it.
line = next(line for line in answer.decode().split("\r\n") if line.startswith("{"))
json.loads(line)
print(line)
