# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Uyuni's module of this name: what its highstate applies, in its order."""


def top(**kwargs):
    """Return the states of each system."""
    return {
        "base": [
            *("channels", "certs", "packages", "custom", "formulas", "services.salt-minion"),
            "switch_to_bundle.mgr_switch_to_venv_minion",
        ]
    }
