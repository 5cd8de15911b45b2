# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The ways to install, each into a root folder of its own, and a master that runs from there."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
USER = "salt"
STATE = "var/lib/salt/store-deploy"
SETTINGS = "etc/salt/master.d/50-store-deploy-settings.conf"
AUTOSIGN = "etc/salt/master.d/40-store-deploy-autosign.conf"
OF_NO_MAKE = {
    name: told for name, told in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
}
"""The environment, but for what tells a make that it is a part of the one that runs the tests."""
SHARE = "usr/share/store-deploy"

# Uyuni's keys, as its own file has them, as far as they meet ours.
SUSEMANAGER = {
    "file_roots": {
        "base": [
            "/usr/share/susemanager/salt",
            "/usr/share/salt-formulas/states",
            "/usr/share/susemanager/formulas/states",
            "/srv/susemanager/salt",
            "/srv/salt",
        ]
    },
    "pillar_roots": {"base": ["/srv/pillar"]},
    "reactor": [
        {"salt/minion/*/start": ["/usr/share/susemanager/reactor/resume_action_chain.sls"]}
    ],
    "extension_modules": "/usr/share/susemanager/modules",
    "runner_dirs": ["/usr/share/susemanager/modules/runners"],
    "engines_dirs": ["/usr/share/susemanager/modules/engines"],
    "master_tops": {"mgr_master_tops": {}},
    "ext_pillar": [{"suma_minion": []}],
    "timeout": 120,
    "gather_job_timeout": 120,
    "file_recv": True,
}

RUNNING = """
salt-master --log-level=error >&2 &
trap 'kill %1; wait' EXIT
until [ -e /var/lib/salt/store-deploy/pump.json ]; do sleep 0.1; kill -0 %1; done
salt-run deploy.doctor hypervisors=False --out=json
"""
"""Asks the doctor while a master runs whose engine has begun to work."""

INSIDE = """
set -e
root=$1 share=$1/usr/share
shift
mount --bind "$root/etc/salt" /etc/salt
mount --bind "$root/var/lib/salt" /var/lib/salt
if [ -d "$share" ]; then
    mkdir -p "$root.work"
    mount -t overlay overlay -o "lowerdir=/usr/share,upperdir=$share,workdir=$root.work" /usr/share
fi
exec "$@"
"""
"""Puts a root's folders where Salt looks for them, and what is installed in /usr/share into it."""


def run(*command):
    """Run a command; its standard error is not looked at, since Debian's rpm always complains."""
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def files(root):
    """Return the files in a root, and empty folders of ours, but no database of packages."""
    paths = [
        path
        for path in root.rglob("*")
        if path.is_symlink()
        or not path.is_dir()
        or ("store" in path.name and not any(path.iterdir()))
    ]
    names = {str(path.relative_to(root)) for path in paths}
    return {name for name in names if not re.match(r"var/lib/(dpkg|rpm)\b", name)}


class Root:
    """A root folder with a Salt master's configuration, and what is installed there."""

    def __init__(self, folder, sources):
        """Make it; ``sources`` has two versions of the project, the older one first."""
        self.path = folder / "root"
        self.old, self.new = sources
        (self.path / "etc/salt/master.d").mkdir(parents=True)
        self.master = self.path / "etc/salt/master"
        self.master.write_text(f"user: {USER}\n")
        # With the user that Salt's package makes: rpm asks in its root who that is.
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", self.path / "etc")

    def __truediv__(self, name):
        return self.path / name

    @property
    def tree(self):
        return self / SHARE

    def run(self, *command):
        """Run a command where all that is installed in this root is at its place."""
        return subprocess.run(
            ["unshare", "--mount", "bash", "-c", INSIDE, "bash", self.path, *command],
            text=True,
            capture_output=True,
            env=OF_NO_MAKE,
        )

    def found(self, *command):
        """Return what the doctor finds, with how to mend it."""
        asked = ("salt-run", "deploy.doctor", "hypervisors=False", "--out=json")
        done = self.run(*(command or asked))
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return {each["fault"]: each["mend"] for each in json.loads(done.stdout)["faults"]}

    def opts(self, *names):
        """Return options of a master that starts here."""
        code = (
            "import json, sys, salt.config; told = salt.config.master_config('/etc/salt/master');"
            "print(json.dumps([told[name] for name in sys.argv[1:]]))"
        )
        return json.loads(self.run(sys.executable, "-c", code, *names).stdout)

    def make_uyunis(self):
        """Put Uyuni's own configuration there, and the reactor that it names."""
        ((reactor,),) = SUSEMANAGER["reactor"][0].values()
        path = self / reactor[1:]
        path.parent.mkdir(parents=True)
        path.touch()
        (self / "etc/salt/master.d/susemanager.conf").write_text(json.dumps(SUSEMANAGER))


class Make(Root):
    """What ``make install`` does."""

    flavour = "plain"

    def make(self, source, target, **told):
        given = {"DESTDIR": self.path, "FLAVOUR": self.flavour, **told}
        words = [f"{key}={value}" for key, value in given.items()]
        return subprocess.run(
            ["make", "-C", source, target, *words],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # As careful administrators have it.
            umask=0o077,
            env=OF_NO_MAKE,
        )

    def do(self, *words, **told):
        done = self.make(*words, **told)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def install(self):
        return self.do(self.old, "install")

    def upgrade(self):
        return self.do(self.new, "install")

    def remove(self):
        return self.do(self.new, "uninstall")


class MakeUyuni(Make):
    flavour = "uyuni"


class MakeContainer(Make):
    flavour = "uyuni-container"

    @property
    def tree(self):
        return self / "etc/salt/store-deploy"


BUILT = {}
"""Packages by the folder of their sources and their kind."""


class Packages(Root):
    """Packages of both versions, which are built once."""

    kind = ""

    def packages(self, source):
        key = (source, self.kind)
        if key not in BUILT:
            told = run(source / "packaging/build", self.kind, source.parent / f"{source.name}.made")
            BUILT[key] = told.split()
        return BUILT[key]

    def install(self):
        return self.put(*self.packages(self.old))

    def install_one(self, autosign):
        """Install one of the two packages."""
        return self.put(*(p for p in self.packages(self.old) if ("autosign" in p) is autosign))

    def upgrade(self):
        return self.put(*self.packages(self.new))


class Rpm(Packages):
    kind = "rpm"

    def rpm(self, *words):
        return run("rpm", "--root", self.path, "--dbpath", "/var/lib/rpm", "--nodeps", *words)

    def put(self, *packages):
        return self.rpm("-U", *packages)

    def remove(self):
        return self.rpm("-e", "store-deploy", "store-deploy-autosign")


class Deb(Packages):
    kind = "deb"

    def dpkg(self, *words):
        folder = self / "var/lib/dpkg"
        for name in ("info", "updates", "triggers"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        force = "depends,confold,script-chrootless,not-root"
        return run("dpkg", f"--root={self.path}", f"--force-{force}", "--log=/dev/null", *words)

    def put(self, *packages):
        return self.dpkg("--install", *packages)

    def remove(self):
        return self.dpkg("--remove", "store-deploy", "store-deploy-autosign")

    def purge(self):
        return self.dpkg("--purge", "store-deploy", "store-deploy-autosign")


WAYS = {
    "make install": Make,
    "make install FLAVOUR=uyuni": MakeUyuni,
    "make install FLAVOUR=uyuni-container": MakeContainer,
    "RPM": Rpm,
    "Debian package": Deb,
}


def newer(folder):
    """Make a newer version in a folder: other settings by default, and a file less in master.d."""
    skip = shutil.ignore_patterns(".git", "__pycache__", "tests", "artifacts", ".*_cache")
    shutil.copytree(REPO, folder, symlinks=True, ignore=skip)
    for name, wrong, right in (
        ("salt/_utils/storelib/__init__.py", r'__version__ = ".*"', '__version__ = "99.0.0"'),
        (f"master.d/{pathlib.Path(SETTINGS).name}", "max_active: 50", "max_active: 60"),
    ):
        path = folder / name
        text = re.sub(wrong, right, path.read_text())
        assert text != path.read_text()
        path.write_text(text)
    (folder / "master.d/50-store-deploy-reactor.conf").unlink()
    spec = folder / "packaging/store-deploy.spec"
    kept = [line for line in spec.read_text().splitlines() if "-reactor.conf" not in line]
    spec.write_text("".join(f"{line}\n" for line in kept))
    (folder / "reactor/new.sls").write_text("{}\n")
    # What Python leaves in a checkout that is used
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder / "_runners"], check=True)
    assert (folder / "_runners/__pycache__").exists()
    return folder
