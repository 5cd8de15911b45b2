# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The stand-in for Uyuni's API as it is served to a test, and a site's settings for it."""

import pytest
from tests.uyuni import api

from storemaster.master import uyuni


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself, and its key."""
    return api.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate):
    with api.serving(api.Uyuni(), *certificate) as server:
        yield server


@pytest.fixture
def told(server, certificate, tmp_path, monkeypatch):
    """What a site's settings say of it."""
    monkeypatch.setattr(uyuni, "PAUSES_S", (0, 0))
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("correct horse\n")
    return {
        "url": server.url,
        "user": "store-deploy",
        "password_file": str(password),
        "ca_file": str(certificate[0]),
    }
