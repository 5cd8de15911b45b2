# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a hint tells an operator to type can be typed, whatever names are in it."""

import inspect
import shlex
from pathlib import Path

import pytest

from storelib import commands

DISK = Path("/pool of disks/it's one.qcow2")
NAME = "it's a domain; reboot"
CASES = [
    (commands.deploy, ["cancel", "0815"], ["salt-run deploy.cancel 0815"]),
    (commands.anew, ["0815"], ["salt-run deploy.store 0815 redeploy=True"]),
    (commands.put_back, ["0815"], ["salt-run deploy.rollback 0815"]),
    (commands.adopt, ["0815"], ["salt-run deploy.adopt 0815"]),
    (commands.rename, [NAME], [["virsh", "domrename", NAME, f"{NAME}-other"]]),
    (commands.rename, [NAME, "x"], [["virsh", "domrename", NAME, "x"]]),
    (commands.detach, [NAME, "vda"], [["virsh", "detach-disk", NAME, "vda", "--config"]]),
    (commands.detach, [NAME, ""], [["virsh", "edit", NAME]]),
    (
        *(commands.commit_snapshot, [NAME, "vda", str(DISK)]),
        [["virsh", "blockcommit", NAME, "vda", "--active", "--pivot"], ["rm", str(DISK)]],
    ),
    (
        *(commands.move_disk, [NAME, str(DISK), Path("/x")]),
        [["mv", str(DISK), "/x"], ["virsh", "edit", NAME]],
    ),
    (commands.make_independent, [DISK], [["qemu-img", "rebase", "-b", "", str(DISK)]]),
    (commands.check_disk, [DISK], [["qemu-img", "check", "-r", "all", str(DISK)]]),
    (commands.check_disk, [], ["qemu-img check -r all IMAGE"]),
    (
        *(commands.convert_disk, [DISK, "raw"]),
        [
            *(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(DISK), f"{DISK}.new"],),
            *(["mv", f"{DISK}.new", str(DISK)],),
        ],
    ),
    (commands.convert_disk, [], ["qemu-img convert -O qcow2 IMAGE IMAGE.new; mv IMAGE.new IMAGE"]),
    (commands.choose, [DISK, Path("/x")], [["mv", str(DISK), f"{DISK}.wrong"], "mv /x /x.wrong"]),
    (commands.make_folder, [DISK], [["mkdir", "-p", str(DISK)]]),
    (commands.free_inodes, [DISK], [["df", "-i", str(DISK)]]),
    (commands.end_process, ["17"], ["kill 17"]),
    (commands.end_loop, ["/dev/loop1"], ["losetup -d /dev/loop1"]),
]


@pytest.mark.parametrize(("function", "arguments", "typed"), CASES)
def test_a_hint_has_the_command_as_a_shell_takes_it(function, arguments, typed):
    hint = function(*arguments)
    for command in typed:
        assert (command if isinstance(command, str) else shlex.join(command)) in hint


def test_every_command_is_tried():
    public = {
        function
        for name, function in inspect.getmembers(commands, inspect.isfunction)
        if not name.startswith("_")
    }
    assert {function for function, *_ in CASES} == public
