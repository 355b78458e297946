"""A JupyterHub on loopback whose people log in at the gate's provider, and whose proxy is the agent.

The environment says where everything is; tests/platforms/jupyterhub has the same hub without a provider.
"""

import ctypes
import os
import pathlib
import signal
import sys

from jupyterhub.spawner import SimpleLocalProcessSpawner

c = get_config()  # noqa: F821
state = pathlib.Path(os.environ["HUB_STATE"]).resolve()
issuer = os.environ["HUB_ISSUER"]

c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["HUB_PROXY_API"]
c.ConfigurableHTTPProxy.auth_token = os.environ["HUB_PROXY_TOKEN"]
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.subdomain_host = os.environ["HUB_PUBLIC"]
c.JupyterHub.hub_bind_url = "http://" + os.environ["HUB_BIND"]
c.JupyterHub.hub_routespec = "/"
c.JupyterHub.db_url = f"sqlite:///{state}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{state}/cookie_secret"

c.JupyterHub.authenticator_class = "generic-oauth"
c.Authenticator.auto_login = True
c.Authenticator.allow_all = True
c.GenericOAuthenticator.client_id = "hub"
c.GenericOAuthenticator.client_secret = "hub"
c.GenericOAuthenticator.oauth_callback_url = os.environ["HUB_PUBLIC"] + "/hub/oauth_callback"
c.GenericOAuthenticator.authorize_url = f"{issuer}/auth"
c.GenericOAuthenticator.token_url = f"{issuer}/token"
c.GenericOAuthenticator.userdata_url = f"{issuer}/me"
c.GenericOAuthenticator.username_claim = "preferred_username"
c.GenericOAuthenticator.scope = ["openid", "profile"]

c.JupyterHub.services = [
    {"name": "agent", "api_token": os.environ["HUB_AGENT_TOKEN"]},
    {"name": "test", "api_token": os.environ["HUB_ADMIN_TOKEN"]},
]
c.JupyterHub.load_roles = [
    {
        "name": "agent",
        "services": ["agent"],
        "scopes": ["list:users", "read:servers", "read:users:groups", "read:shares", "proxy"],
    },
    {"name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers"]},
]

# prctl is looked up here: little is safe between fork and exec.
prctl = ctypes.CDLL(None).prctl


class Spawner(SimpleLocalProcessSpawner):
    """Servers end with a hub that is killed."""

    def make_preexec_fn(self, name):
        home = super().make_preexec_fn(name)

        def preexec():
            home()
            prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

        return preexec


c.JupyterHub.spawner_class = Spawner
c.SimpleLocalProcessSpawner.home_dir_template = f"{state}/home/{{username}}"
# The environment's bin need not be in PATH.
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.default_url = "/lab"
c.Spawner.args = ["--allow-root"] if os.geteuid() == 0 else []
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
