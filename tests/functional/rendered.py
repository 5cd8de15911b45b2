# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Print what states are on this machine: the grains of its os-release, and each SLS compiled.

usage: rendered.py CONFIG_FOLDER PILLAR SLS...
"""

import json
import sys

import salt._logging
import salt.config
import salt.loader

salt._logging.shutdown_temp_handler()
folder, pillar, *names = sys.argv[1:]
opts = salt.config.minion_config(f"{folder}/minion")
opts["grains"] = salt.loader.grains(opts, force_refresh=True)
modules = salt.loader.minion_mods(opts)
modules["saltutil.sync_all"]()
modules = salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))
shown = {name: modules["state.show_low_sls"](name, pillar=json.loads(pillar)) for name in names}
grains = {name: opts["grains"].get(name) for name in ("os", "os_family", "osrelease")}
print(json.dumps({"grains": grains, "shown": shown}))
