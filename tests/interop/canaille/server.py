"""Canaille on loopback, for the interop tests: its own application, configured and no more.

Prints `listening http://127.0.0.1:PORT` once it serves, and ends when its standard input does. The
user alice takes JWT access tokens by the password grant; each client is named after the algorithm
it asks for, "elsewhere" has another audience.
POST /interop/rotate?curve=P-384 makes new keys and goes on publishing the ones before;
POST /interop/retire stops that. (Canaille takes any elliptic key it has for any ES algorithm, so
there is one at a time.)
"""

import datetime
import logging
import sys
import threading

import canaille
from canaille.app import models
from canaille.backends import Backend
from flask import request
from joserfc.jwk import ECKey, OKPKey, RSAKey
from werkzeug.serving import make_server

ALGORITHMS = "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519"


def generation(curve):
    """Private keys, one of each type."""
    rsa = RSAKey.generate_key(2048, auto_kid=True)
    ec = ECKey.generate_key(curve, auto_kid=True)
    okp = OKPKey.generate_key("Ed25519", auto_kid=True)
    return [key.as_dict(private=True) for key in (rsa, ec, okp)]


def client(name, algorithm, audience=None):
    """A client that may ask for tokens on behalf of a user, and for its own."""
    backend = Backend.instance
    made = models.Client(
        client_id=name,
        client_name=name,
        client_secret="secret",
        client_id_issued_at=datetime.datetime.now(datetime.timezone.utc),
        grant_types=["password", "client_credentials"],
        response_types=["token"],
        redirect_uris=["https://client.test"],
        token_endpoint_auth_method="client_secret_post",
        scope=["openid", "profile", "email"],
        id_token_signed_response_alg=algorithm,
    )
    backend.save(made)
    made.audience = [audience or made]
    backend.save(made)
    return made


def populate():
    """The user and the clients."""
    alice = models.User(
        user_name="alice",
        formatted_name="Alice",
        family_name="Alice",
        display_name="alice",
        emails=["alice@example.com"],
        password="correct horse",
    )
    Backend.instance.save(alice)
    workspaces = client("workspaces", "RS256")
    client("elsewhere", "RS256")
    for algorithm in ALGORITHMS.split():
        client(algorithm, algorithm, workspaces)


def application(address):
    """Canaille at this address, everything in memory, and the two ways to change its keys."""
    app = canaille.create_app(
        config={
            "SECRET_KEY": "interop",
            "SERVER_NAME": address,
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory"},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": generation("P-256"), "INACTIVE_JWKS": []},
        }
    )
    app.logger.setLevel(logging.WARNING)
    settings = app.config["CANAILLE_OIDC"]

    def rotate():
        new = generation(request.args["curve"])
        settings["INACTIVE_JWKS"] = settings["ACTIVE_JWKS"] + settings["INACTIVE_JWKS"]
        settings["ACTIVE_JWKS"] = new
        return {}

    def retire():
        settings["INACTIVE_JWKS"] = []
        return {}

    for view in (rotate, retire):
        app.add_url_rule(f"/interop/{view.__name__}", view_func=view, methods=["POST"])
        app.extensions["csrf"].exempt(view)
    with app.app_context(), Backend.instance.session():
        populate()
    return app


def main():
    """Serves until standard input ends."""
    # The issuer's name holds the port, so the socket comes first.
    server = make_server("127.0.0.1", 0, None, threaded=True)
    address = f"127.0.0.1:{server.port}"
    server.app = application(address)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening http://{address}", flush=True)
    sys.stdin.read()


main()
