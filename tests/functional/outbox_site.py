# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A master's settings and ledger, with one receiver of changes."""

import dataclasses
import time

from storemaster.deployment.actor import Actor, act_as
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Outbox
from storemaster.deployment.record import Record
from storemaster.master import settings
from storemaster.master.outbox import office, sending

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Told:
    """A master's settings and ledger, and its one receiver of changes."""

    def __init__(self, opts):
        self.opts = opts

    @property
    def one(self):
        (receiver,) = settings.outbox(self.opts)
        return receiver

    def deliver(self):
        return sending.deliver(self.opts, self.one)

    def waiting(self):
        with Ledger(settings.ledger_path(self.opts)) as ledger:
            return Outbox(ledger, self.one.name).waiting()

    def fault(self):
        (row,) = office.shown(self.opts, None)
        return row["fault"]

    def hurry(self):
        """Let all pauses be over, as time would."""
        with Ledger(settings.ledger_path(self.opts)) as ledger, ledger.writing() as db:
            db.execute("UPDATE receivers SET due = 0")
            db.execute("UPDATE notices SET due = 0")


class Site(Told):
    """One whose receiver a test names."""

    def __init__(self, folder):
        super().__init__({"store_deploy": {"state_dir": str(folder / "state"), "outbox": {}}})
        self.folder = folder
        self.file("secret", SECRET)

    def file(self, name, text, mode=0o600):
        path = self.folder / name
        path.write_text(f"{text}\n")
        path.chmod(mode)
        return str(path)

    def receiver(self, **told):
        """Name a receiver, from before anything happened."""
        self.opts["store_deploy"]["outbox"]["it"] = told
        self.deliver()

    def webhook(self, url, **told):
        return self.receiver(webhook=url, secret_file=str(self.folder / "secret"), **told)

    def change(self, store="0815", state="failed", reason="it is late", who="", **changes):
        with Ledger(settings.ledger_path(self.opts)) as ledger, act_as(Actor(who, "api")):
            old = ledger.get(store) or ledger.save(_record(store))
            ledger.save(dataclasses.replace(old, state=state, since=time.time(), **changes), reason)


def _record(store):
    return Record(
        store=store,
        generation=1,
        state="booting",
        since=100.0,
        deadline=None,
        hypervisor=f"hv-{store}",
        minion_id=f"store-{store}",
        spec={"group": "north"},
        began=100.0,
        requested_by="operator",
    )


def never(connection):
    time.sleep(60)
