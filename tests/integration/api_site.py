# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""salt-api as docs/api.md sets it up: the shipped configuration, real PAM, real nginx."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import salt.utils.yaml
import store_site

HOST = "deploy.example.com"
URL = f"https://{HOST}"
PASSWORD = "correct horse"
PAGE = store_site.CHECKOUT / "docs/api.md"
USERS = {"olga": "store-owners", "otto": "store-operators", "vera": "store-viewers", "zoe": ""}
CLIENT = pathlib.Path("/srv/client")
NGINX = pathlib.Path("/srv/nginx")


def private(path):
    """Have a file of the machine of one's own, which others' programs read at its usual path."""
    copy = pathlib.Path("/srv") / pathlib.Path(path).name
    shutil.copy2(path, copy)
    store_site.run("mount", "--bind", copy, path)


def add_users():
    """Add users with a password, and their groups."""
    if "olga:" in pathlib.Path("/etc/passwd").read_text():
        return
    for path in ("/etc/passwd", "/etc/group", "/etc/shadow"):
        private(path)
    hashed = store_site.run("openssl", "passwd", "-6", PASSWORD).strip()
    groups = [group for group in USERS.values() if group]
    with open("/etc/group", "a") as file:
        for number, group in enumerate(groups):
            members = [user for user, own in USERS.items() if own == group]
            file.write(f"{group}:x:{7100 + number}:{','.join(members)}\n")
    with open("/etc/passwd", "a") as passwd, open("/etc/shadow", "a") as shadow:
        for number, user in enumerate(USERS):
            passwd.write(f"{user}:x:{7000 + number}:100::/srv:/bin/false\n")
            shadow.write(f"{user}:{hashed}:20000:0:99999:7:::\n")


def shipped():
    """Return the shipped configuration without its hashes, as the page has them taken away."""
    command = re.search(r"(?m)^ +(sed .*?) >/etc/salt/master\.d/70-api\.conf$", PAGE.read_text())[1]
    command = command.replace("/usr/share/store-deploy", str(store_site.CHECKOUT))
    return salt.utils.yaml.safe_load(store_site.run("sh", "-c", command))


def start_nginx():
    """Start nginx with the shipped server and a certificate of the lab's."""
    (NGINX / "conf.d").mkdir(parents=True, exist_ok=True)
    made = ["-keyout", NGINX / "key.pem", "-out", NGINX / "cert.pem", "-subj", f"/CN={HOST}"]
    alternative = ["-addext", f"subjectAltName=DNS:{HOST}"]
    store_site.run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *made,
        *alternative,
    )
    text = (store_site.CHECKOUT / "docs/nginx-store-deploy.conf").read_text()
    for name, own in (
        ("certs/deploy.example.com.pem", "cert.pem"),
        ("private/deploy.example.com.key", "key.pem"),
    ):
        assert f"/etc/ssl/{name};" in text
        text = text.replace(f"/etc/ssl/{name}", str(NGINX / own))
    (NGINX / "conf.d/store-deploy.conf").write_text(text)
    (NGINX / "nginx.conf").write_text(
        f"user root;\npid {NGINX}/pid;\nerror_log {NGINX}/error.log;\ndaemon off;\n"
        f"events {{}}\nhttp {{ access_log {NGINX}/access.log; include {NGINX}/conf.d/*.conf; }}\n"
    )
    return subprocess.Popen(["nginx", "-c", NGINX / "nginx.conf"], start_new_session=True)


class Api:
    """The daemons between a client and the master."""

    def __init__(self, site):
        self.site = site
        self.salt_api = store_site.Daemon("salt-api")
        self.nginx = None

    def start(self):
        """Start salt-api, and wait until it is there."""
        self.salt_api.start()
        store_site.until(welcomes, 60, "salt-api answers")


def welcomes():
    """Say whether salt-api answers, not only listens."""
    with contextlib.suppress(OSError):
        return urllib.request.urlopen("http://127.0.0.1:8000/", timeout=5).status == 200


def answers(port):
    """Say whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True


@contextlib.contextmanager
def serving(site, proxy=True, **settings):
    """
    Let a site have the API, reached as a client on another machine would reach it.

    settings
        Of ``store_deploy``, beside what is shipped.
    """
    add_users()
    # Salt's helper for PAM would be run by the distribution's Python, which has no Salt here.
    CLIENT.mkdir(exist_ok=True)
    python = CLIENT / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    site.master.kill()
    told = shipped()
    told["store_deploy"] |= settings
    site.master.start(**told, **{"auth.pam.python": str(python)})
    api = Api(site)
    api.start()
    if proxy:
        api.nginx = start_nginx()
        store_site.until(lambda: answers(443), 60, "nginx answers")
    yield api
    if proxy:
        os.killpg(api.nginx.pid, signal.SIGTERM)
        api.nginx.wait()
    api.salt_api.kill()
    site.master.kill()
    site.master.start()
