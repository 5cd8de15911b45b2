# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A master's installation in a folder, read by Salt, and a mend carried out to the letter."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import salt.config
import salt.utils.yaml

from storemaster.master import doctor

REPO = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = REPO / "master.d"
SITE = "60-site.conf"


def uncommented(text, checkout):
    """Return the shipped file for a master without the engine as its head says that it is used."""
    return re.sub(r"(?m)^#([a-z_]+:|  )", r"\1", text).replace("/srv/store-deploy", checkout)


class Installation:
    """What the README makes: the shipped files in master.d, and the master's own beside it."""

    def __init__(self, folder, user="root"):
        self.folder = folder
        self.main = folder / "etc/master"
        self.files = folder / "etc/master.d"
        self.files.mkdir(parents=True)
        (folder / "sock_dir").mkdir()
        (folder / "store-deploy").mkdir(mode=0o700)
        for path in SHIPPED.glob("*.conf"):
            (self.files / path.name).write_text(self.adapted(path.read_text()))
        self.main.write_text("")
        self.say("00-lab.conf", user=user, root_dir=str(folder), **self.folders())

    def folders(self):
        names = ("pki_dir", "cachedir", "sock_dir")
        return {name: str(self.folder / name) for name in names}

    def adapted(self, text):
        text = text.replace("/srv/store-deploy", str(REPO))
        return text.replace("/var/lib/salt", str(self.folder))

    def read(self, name):
        path = self.files / name
        return (salt.utils.yaml.safe_load(path.read_text()) or {}) if path.exists() else {}

    def say(self, name, **told):
        """Write keys into a file, beside what is in it; ``None`` takes one out."""
        told = {**self.read(name), **told}
        told = {key: value for key, value in told.items() if value is not None}
        (self.files / name).write_text(salt.utils.yaml.safe_dump(told))

    @property
    def opts(self):
        """What a master that is started now runs with."""
        opts = salt.config.master_config(str(self.main))
        return {**opts, "__role": "master", "grains": {}}

    def found(self, hypervisors=False):
        """Return what the doctor finds, with how to mend it."""
        told = doctor.faults(self.opts, hypervisors, print)
        return {each["fault"]: each["mend"] for each in told}

    # Mends.

    def do(self, mend):
        """Do what a mend says, sentence by sentence; whoever wrote it must have known these."""
        for step in mend.split("; "):
            self._do(step.removesuffix(", then systemctl restart salt-master"))

    def _do(self, step):
        for pattern, act in (
            (r"systemctl restart salt-master", self._restart),
            (r"mend (\S+)", self._mend),
            (r"install master\.d/(\S+)", self._install),
            (r"move (\w+) from (\S+) into (\S+)", self._move),
            (r"remove (\w+): \w+", self._remove),
            (r"remove (\w+)", self._remove),
            (r"remove (\w+), or install what .*", self._remove),
            (r"remove (\w+) from (\S+), or .*", self._remove),
            (r"remove (/\S+)", os.remove),
            (r"remove the line (.+) from (\S+)", self._remove_line),
            (r"take '(.+)' out of (\w+)", self._take_out),
            (r"take (/\S+(?:, /\S+)*) out of reactor in (\S+)", self._take_reactors_out),
            (r"add (\w+) to (\w+)", self._add),
            (r"set (\w+) to (\d+) or more", self._set),
            (r"write (\w+) as a list in (\S+)", self._as_list),
            (r"name (\S+) once in all of master\.d, where it is at .*", self._name_once),
            (r"write (\S+) instead of (\S+) in (\S+)", self._replace),
            (r"make (\S+), or take it out of reactor in .*", self._make),
            (r"correct (\w+) under store_deploy in (\S+)", self._correct),
            (r"remove (\w+) from what is under store_deploy in (\S+)", self._leave_out),
            (r"write store_deploy as a mapping in (\S+)", self._as_a_mapping),
            (r"remove (\w+), if no syndic calls this master", self._remove),
            (r"else install store-deploy on the master that the minions call", self._restart),
            (r"systemctl restart salt-master \(.*\)", self._restart),
            (r"salt-key -d those that .*", self._restart),
            (r"salt '\*' saltutil\.refresh_pillar", self._restart),
            (r"(?:\S+ is there and does not say so: )?((?:cp|rm|sed|mv) .*)", self._shell),
            (r"((?:chgrp|chmod|chown|install) .*)", self._shell),
        ):
            if match := re.fullmatch(pattern, step):
                act(*match.groups())
                return
        raise AssertionError(f"this cannot be followed: {step}")

    def _restart(self):
        """Each look reads the files anew."""

    def _mend(self, path):
        path = pathlib.Path(path)
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
        self._install(path.name)

    def _install(self, name):
        (self.files / name).unlink(missing_ok=True)
        (self.files / name).write_text(self.adapted((SHIPPED / name).read_text()))

    def _name_once(self, sls):
        """Take the reactor out of each file but the shipped one."""
        for path in self.files.iterdir():
            told = [
                {tag: files}
                for each in self.read(path.name).get("reactor") or []
                for tag, files in each.items()
                if not any(file.endswith(f"/{sls}") for file in files)
            ]
            if path.name not in os.listdir(SHIPPED) and "reactor" in self.read(path.name):
                self.say(path.name, reactor=told)

    def _take_reactors_out(self, files, path):
        name, named = pathlib.Path(path).name, files.split(", ")
        told = [
            {tag: sls}
            for each in self.read(name)["reactor"]
            for tag, sls in each.items()
            if not set(sls) & set(named)
        ]
        self.say(name, reactor=told)

    def _replace(self, right, wrong, path):
        path = pathlib.Path(path)
        assert wrong in path.read_text()
        path.write_text(path.read_text().replace(wrong, right))

    def _make(self, path):
        pathlib.Path(path).parent.mkdir(parents=True)
        pathlib.Path(path).touch()

    def _correct(self, key, path):
        self._settings(path, lambda told: {**told, key: self._shipped()[key]}, key)

    def _leave_out(self, key, path):
        self._settings(path, lambda told: {k: told[k] for k in told if k != key}, key)

    def _as_a_mapping(self, path):
        self._settings(path, lambda _: self._shipped())

    def _shipped(self):
        text = self.adapted((SHIPPED / "50-store-deploy-settings.conf").read_text())
        return salt.utils.yaml.safe_load(text)["store_deploy"]

    def _settings(self, path, change, key=None):
        """Change the settings in a file, which must have what is to be changed."""
        path = pathlib.Path(path)
        told = salt.utils.yaml.safe_load(path.read_text())
        assert key is None or key in told["store_deploy"]
        write(path, {**told, "store_deploy": change(told["store_deploy"])})

    def _move(self, key, source, target):
        source, target = pathlib.Path(source), pathlib.Path(target)
        told = salt.utils.yaml.safe_load(source.read_text())
        self.say(target.name, **{key: told.pop(key)})
        source.write_text(salt.utils.yaml.safe_dump(told))

    def _remove(self, key, path=None):
        """Remove a key from a file, or from wherever it is."""
        for each in [pathlib.Path(path)] if path else [self.main, *self.files.iterdir()]:
            told = salt.utils.yaml.safe_load(each.read_text()) or {}
            if told.pop(key, None) is not None:
                each.write_text(salt.utils.yaml.safe_dump(told))

    def _remove_line(self, line, path):
        path = pathlib.Path(path)
        lines = path.read_text().splitlines()
        lines.remove(line)
        path.write_text("".join(f"{each}\n" for each in lines))

    def _take_out(self, entry, key):
        entry = entry.replace("\\\\", "\\")
        self.say(SITE, **{key: [each for each in self.read(SITE)[key] if each != entry]})

    def _add(self, entry, key):
        self.say(SITE, **{key: [*self.read(SITE)[key], entry]})

    def _set(self, key, value):
        self.say(SITE, **{key: int(value)})

    def _as_list(self, key, path):
        name = pathlib.Path(path).name
        told = self.read(name)[key]
        self.say(name, **{key: [{each: value} for each, value in told.items()]})

    def _shell(self, command):
        # The state folder is in this folder, too.
        assert shutil.which(shlex.split(command)[0])
        subprocess.run(command, shell=True, check=True)
        for path in self.files.glob("*-store-deploy-*.conf"):
            path.write_text(self.adapted(path.read_text()))


def write(path, told):
    path.write_text(salt.utils.yaml.safe_dump(told))
