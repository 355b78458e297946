"""A real JupyterHub on loopback whose proxy is another program: the agent, or prove.py.

Start: python -m jupyterhub -f jupyterhub_config.py
Prints `listening http://127.0.0.1:PORT/hub/` once its routes are set, and ends, with every server
that it started, when its standard input does (so that one must be a pipe). The environment says:

HUB_STATE        an own directory: database, cookie secret, the users' homes
HUB_PUBLIC       where browsers find the hub: http://hub.test:PORT
HUB_PROXY_API    where the proxy listens for routes: http://127.0.0.1:PORT, which must be up before
HUB_PROXY_TOKEN  what the hub proves itself with there
HUB_AGENT_TOKEN  what the agent proves itself with at the hub's REST API
HUB_ADMIN_TOKEN  the same for the test: starts and stops servers, makes tokens of users
HUB_BIND         the hub's own address: 127.0.0.1:PORT; without it, the system chooses a port
HUB_ROUTESPEC    which requests the proxy leads to the hub, "/" (any other) if not said: hub.test/
HUB_CHECK        seconds between two looks at the proxy's routes, 300 if not said
"""

import ctypes
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
import time

from jupyterhub.spawner import SimpleLocalProcessSpawner

c = get_config()  # noqa: F821
state = pathlib.Path(os.environ["HUB_STATE"]).resolve()
state.mkdir(mode=0o700, parents=True, exist_ok=True)


def free():
    """An address of this machine that is free now. The hub takes port 0 for 80."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


# The agent is the proxy. The hub asks it for its routes first of all and ends without an answer
# for 30 s.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["HUB_PROXY_API"]
c.ConfigurableHTTPProxy.auth_token = os.environ["HUB_PROXY_TOKEN"]
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.last_activity_interval = int(os.environ.get("HUB_CHECK", "300"))

# Each user has a host, USER.hub.test. The URL serves for links and redirects only: nothing here
# looks that name up. Servers reach the hub, and the hub its servers, by the address it is bound to;
# a hub bound to all addresses would give its servers the machine's name instead.
c.JupyterHub.subdomain_host = os.environ["HUB_PUBLIC"]
c.JupyterHub.hub_bind_url = "http://" + (os.environ.get("HUB_BIND") or free())
c.JupyterHub.hub_routespec = os.environ.get("HUB_ROUTESPEC", "/")

c.JupyterHub.db_url = f"sqlite:///{state}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{state}/cookie_secret"

# Who exists. Any password will do at the login form. Of the group, dave.
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {"alice", "bob", "carol", "dave", "zoë+x@example.org"}
c.JupyterHub.load_groups = {"team": {"users": ["dave"]}}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services = [
    {"name": "agent", "api_token": os.environ["HUB_AGENT_TOKEN"]},
    {"name": "test", "api_token": os.environ["HUB_ADMIN_TOKEN"]},
]
c.JupyterHub.load_roles = [
    {
        "name": "agent",
        "services": ["agent"],
        # The list with its servers, groups in it, who shares with whom, POST /hub/api/proxy.
        "scopes": ["list:users", "read:servers", "read:users:groups", "read:shares", "proxy"],
    },
    {
        "name": "test",
        "services": ["test"],
        "scopes": ["admin:users", "admin:servers", "admin:groups", "tokens", "shares", "proxy"],
    },
    # By default no user may share, and naming people takes a scope of its own.
    {
        "name": "user",
        "scopes": ["self", "shares!user", "read:users:name", "read:groups:name"],
    },
]

# prctl is looked up here: little is safe between fork and exec.
prctl = ctypes.CDLL(None).prctl


class Spawner(SimpleLocalProcessSpawner):
    """Servers as processes of the hub's own user. They end with a hub that is killed."""

    def make_preexec_fn(self, name):
        home = super().make_preexec_fn(name)

        def preexec():
            home()
            prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

        return preexec


c.JupyterHub.spawner_class = Spawner
c.SimpleLocalProcessSpawner.home_dir_template = f"{state}/home/{{username}}"
# The environment's bin need not be in PATH. Without this class it asks for JupyterLab.
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.environment = {"JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp"}
c.Spawner.args = ["--allow-root"] if os.geteuid() == 0 else []
# A server that dies by itself is noticed after so many seconds (30 if not said).
c.Spawner.poll_interval = 2


class Listening(logging.Handler):
    """Tells that the hub runs."""

    def emit(self, record):
        if "internal Hub API at" in str(record.msg):
            print("listening", record.args[0], flush=True)

    def __deepcopy__(self, memo):
        # Configuration is copied, and a handler's lock cannot be.
        return self


def ending():
    """Ends the hub cleanly when its standard input is closed."""
    # Not sys.stdin: its lock would be in the way when Python ends.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # A hub whose database is gone, as a directory of a test that failed may be, does not get there.
    time.sleep(10)
    os.kill(os.getpid(), signal.SIGKILL)


c.JupyterHub.extra_log_handlers = [Listening()]
threading.Thread(target=ending, daemon=True).start()
