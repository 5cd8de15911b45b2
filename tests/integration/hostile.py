# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a minion can do whose key the master has accepted and whose owner means harm.

It speaks Salt's own channel with its own key; nothing of the master is changed for it.
"""

import contextlib
import json
import pathlib
import subprocess

import psutil
import salt.channel.client
import salt.config
import salt.version
import store_site

WAYS = ["_syndic_return"]
"""How a return of another minion gets into the job cache."""
if salt.version.__saltstack_version__.major >= 3008:
    WAYS.append("resource_id")


class Forged(dict):
    """A request that keeps its own ``id`` when Salt's channel writes the sender's into it."""

    def __setitem__(self, key, value):
        if key != "id":
            super().__setitem__(key, value)


class Hostile:
    """An accepted minion without a daemon: each message is sent by hand."""

    def __init__(self, minion_id="hostile"):
        minion = store_site.Hypervisor(minion_id)
        minion.enrol()
        opts = salt.config.minion_config(f"{minion.home}/etc/salt/minion")
        opts["master_uri"] = "tcp://127.0.0.1:4506"
        self.id = minion_id
        self.channel = salt.channel.client.ReqChannel.factory(opts)

    def send(self, cmd, **load):
        """Send one request and return the master's answer."""
        return self.channel.send({"cmd": cmd, **load}, timeout=30, tries=1)

    def send_as(self, minion, cmd, **load):
        """Send one request with the ID of another minion in it."""
        return self.channel.send(Forged({"cmd": cmd, "id": minion, **load}), timeout=30, tries=1)

    def fire(self, tag, data=None):
        """Fire an event as ``event.send`` does: the master writes the true minion ID into it."""
        return self.send("_minion_event", tag=tag, data=data or {})

    def fire_as(self, *events):
        """Fire events, pairs of tag and data, of which every field is made up."""
        events = [{"tag": tag, "data": data} for tag, data in events]
        return self.send("_minion_event", events=events)

    def return_as(self, minion, job, value, way, retcode=0):
        """Send the return of another minion's job, in one of :data:`WAYS`."""
        about = {"jid": job.jid, "fun": job.function, "fun_args": [], "success": True}
        if way == "_syndic_return":
            returns = {minion: {"return": value, "retcode": retcode}}
            return self.send(way, **about, **{"return": returns})
        result = {"return": value, "retcode": retcode}
        return self.send("_return", resource_id=minion, **about, **result)


class Caller:
    """Who has another minion's ID, and a key pair of its own."""

    def __init__(self, minion_id):
        self.home = pathlib.Path("/srv/callers") / minion_id
        (self.home / "etc/salt").mkdir(parents=True)
        config = (store_site.LAB / "etc/salt/minion").read_text()
        (self.home / "etc/salt/minion").write_text(
            f"{config}id: {minion_id}\nroot_dir: {self.home}\n"
        )

    def call(self):
        """Call the master; return the pillar that it gives, ``None`` if it does not let in."""
        command = ["salt-call", "-c", f"{self.home}/etc/salt", "pillar.items", "--out=json"]
        done = subprocess.run(
            command,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
            env=store_site.ENVIRONMENT,
        )
        return json.loads(done.stdout)["local"] if done.returncode == 0 else None

    @property
    def public_key(self):
        return (self.home / "etc/salt/pki/minion/minion.pub").read_text().strip()


@contextlib.contextmanager
def frozen(process):
    """Stop a minion with all its processes, so that it cannot answer, too."""
    top = psutil.Process(process.pid)
    everyone = [top, *top.children(recursive=True)]
    for each in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.suspend()
    try:
        yield
    finally:
        for each in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
