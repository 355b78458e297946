"""A hub whose proxy is the agent: everything that differs from run to run comes from the environment."""

import os
import sys
from pathlib import Path

state = Path(os.environ["HUB_STATE"])
hub = f"http://127.0.0.1:{os.environ['HUB_PORT']}"

# Where browsers come in. Subdomains give each user's servers a host name, and so an origin, of their own.
c.JupyterHub.bind_url = os.environ["HUB_PUBLIC"]
c.JupyterHub.subdomain_host = os.environ["HUB_PUBLIC"]
c.JupyterHub.hub_bind_url = hub
# Servers ask the hub by its address: nobody resolves names here.
c.JupyterHub.hub_connect_url = hub

# The agent is the proxy: it is there already, and knows its token.
c.JupyterHub.proxy_class = "jupyterhub.proxy.ConfigurableHTTPProxy"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["HUB_PROXY_API"]
c.ConfigurableHTTPProxy.auth_token = os.environ["HUB_PROXY_TOKEN"]

c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {"alice", "bob", "carol"}
c.JupyterHub.allow_named_servers = True

c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = str(state / "homes" / "{username}")
# Without an interface of its own; the tests may run as root.
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.environment = {
    "JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp",
    "JUPYTER_PLATFORM_DIRS": "1",
}
c.Spawner.poll_interval = 1
c.JupyterHub.cleanup_servers = True

c.JupyterHub.db_url = f"sqlite:///{state}/hub.sqlite"
c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
c.JupyterHub.log_level = "INFO"

c.JupyterHub.services = [
    {"name": "agent", "api_token": os.environ["HUB_AGENT_TOKEN"]},
    {"name": "test", "api_token": os.environ["HUB_ADMIN_TOKEN"], "admin": True},
]
# What the agent needs, and no more.
c.JupyterHub.load_roles = [
    {
        "name": "agent",
        "services": ["agent"],
        "scopes": ["proxy", "list:users", "read:users:name", "read:users:groups", "read:shares"],
    },
    # Owners may share their servers, and the tokens of users reach them.
    {
        "name": "user",
        "scopes": ["self", "shares!user", "read:users:name", "read:groups:name"],
    },
]
c.JupyterHub.load_groups = {"team": {"users": ["bob"]}}
