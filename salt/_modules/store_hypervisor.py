# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Deploy a store server's domain on its hypervisor.

Each function is one step of a deployment. All take the validated spec of the store and the number
of the deployment (generation) by keyword, can be called again after having been killed at any
line, and return a report: ``ok``, ``error``, ``hint`` and the facts that were read back.
None raises for what goes wrong there; such a report sets the return code 1.

:depends: ``storelib`` (``_utils/``), execution module ``virt``, libvirt-python, qemu-img, xorriso,
    curl for images from web servers
"""

import functools
import inspect
from typing import TYPE_CHECKING

import salt.exceptions
import salt.pillar

import storelib.hypervisor.facts
from storelib import report
from storelib.errors import Fault, NotNow
from storelib.hypervisor import bell, new_server, old_server, outcome, removal, server
from storelib.hypervisor.host import Host
from storelib.hypervisor.transfer import Access

if TYPE_CHECKING:
    from typing import Any

    __context__: dict[str, Any]
    __grains__: dict[str, Any]
    __opts__: dict[str, Any]
    __pillar__: dict[str, Any]
    __salt__: dict[str, Any]


def _reporting(step):
    """Turn what a step returns or raises into its sealed report, and into the return code."""

    @functools.wraps(step)
    def reported(spec, generation, *args, nonce="", **kwargs):
        name = step.__name__

        def act():
            return step(spec, generation, *args, **kwargs)

        secret = __pillar__.get("store_deploy", {}).get("secret", "")
        told = report.on(lambda: outcome.of(name, spec, act), spec, generation, name, nonce, secret)
        # The loader's context outlives the job in some callers: set it in both cases.
        __context__["retcode"] = 0 if told["ok"] else 1
        return told

    return reported


def _host():
    return Host(
        uri=__salt__["config.get"]("virt:connection:uri", None),
        has_virt=lambda: "virt.init" in __salt__,
        virt_init=_of_salt("virt.init"),
        virt_start=_of_salt("virt.start"),
        get_file=_get_file,
        access=Access.of(__opts__),
        key_bits=__opts__["keysize"],
        registration=_registration,
        environment=_environment(),
        saltenv=__opts__.get("saltenv") or "base",
        sudo_user=str(__opts__.get("sudo_user") or ""),
        salt=__grains__["saltversioninfo"][0],
    )


def _of_salt(name):
    """Return that function of Salt's; what it refuses is a fault."""

    def called(*args, **kwargs):
        try:
            return __salt__[name](*args, **kwargs)
        except salt.exceptions.SaltException as err:
            raise Fault(str(err) or type(err).__name__) from err

    return called


def _get_file(source, path):
    try:
        return __salt__["cp.get_file"](source, path)
    except salt.exceptions.SaltException as err:
        raise Fault(
            f"the master cannot be asked for the image {source}: {str(err) or type(err).__name__}",
            "see to the master and the line",
        ) from err


def _registration():
    """Take them from the pillar as it is now, not from what this minion knows of it."""
    environment = _environment()
    known = inspect.signature(salt.pillar.get_pillar).parameters
    asked = salt.pillar.get_pillar(
        # On 3006 what the loader has is nothing in the thread that asks.
        *(__opts__, dict(__grains__), __opts__["id"], environment["saltenv"] or None),
        pillarenv=environment["pillarenv"] or None,
        **({"clean_cache": True} if "clean_cache" in known else {}),
    )
    try:
        told = asked.compile_pillar()
    except salt.exceptions.SaltException as err:
        raise NotNow(f"the master gives no pillar: {str(err) or type(err).__name__}") from err
    if told.get("_errors") or "store_server" not in told:
        raise NotNow(f"its pillar is not whole: {told.get('_errors') or 'no store_server'}")
    keys = {
        "activation_key": told["store_server"].get("activation_key"),
        "management_key": told.get("store_deploy", {}).get("management_key"),
    }
    return {name: str(key) for name, key in keys.items() if key}


def _environment():
    """Return in which environments this minion asks for states and pillar; empty for Salt's."""
    told = {key: str(__opts__.get(key) or "") for key in ("saltenv", "pillarenv")}
    if __opts__.get("pillarenv_from_saltenv"):
        told["pillarenv"] = told["pillarenv"] or told["saltenv"]
    return told


@_reporting
def facts(spec, generation, source=False, nonce=""):
    """
    Read what the hypervisor has and lacks for this store. Changes nothing.

    It answers without libvirt too: ``libvirt`` then says why it cannot be reached, and the facts
    that only libvirt knows are empty.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    source
        Look closer, which takes some seconds, for which nobody waits otherwise: whether an image
        that is not here yet can be fetched (``source_error``), from a web server or a file, and
        how many bytes it has (``image_length``, ``None`` if that is not told); what of the old
        server, or of others, ``prepare`` would refuse to begin beside (``refused``).

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.facts spec='{...}' generation=1
    """
    return storelib.hypervisor.facts.facts(_host(), spec, source)


@_reporting
def stage(spec, generation, order, nonce=""):
    """
    Bring the image into the hypervisor's cache and check its SHA-256.

    An image that is there already is not fetched again, and read again only if it was touched.
    A transfer by http(s) that broke off goes on where it stopped, and ends before the state's time
    is over. While another job brings the same image, ``waits`` says so and nothing is done.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.stage spec='{...}' generation=1 order='{...}'
    """
    return new_server.stage(_host(), spec, order)


@_reporting
def prepare(spec, generation, order, master_public_key, registration=None, nonce=""):
    """
    Make the store's new server ready beside the old one, which is not touched.

    Its disk is cloned from the staged image and grown, data disks are made where the store has
    none, its key pair is made, its seed written, all in a folder of their own. A data disk that is
    there is not touched, but must be one that the new server can open. Then libvirt has to take its
    definition, under another name, and it is undefined again. Whatever fails leaves nothing behind.
    Called again for the same deployment it changes nothing; what another one left is removed.
    ``took_s`` is how many seconds the look at image and hardware took, and the trial.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    master_public_key
        Public key (PEM) of the only master that the guest may trust.

    registration
        Names of the keys for Uyuni that the seed has to have: the keys are in this minion's pillar.
        As long as they are not, ``waits`` says so. ``None``: the seed says nothing of Uyuni.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.prepare spec='{...}' generation=1 order='{...}' \
            master_public_key='...'
    """
    return new_server.prepare(_host(), spec, generation, order, master_public_key, registration)


@_reporting
def clear(spec, generation, order, public_key=None, nonce=""):
    """
    Set the store's old server aside: its disk, definition, NVRAM and public key together.

    ``off_for_s`` is how long ago it ended, if it ran.

    The guest is shut down, and switched off if that takes longer than a minute. Nothing of it is
    deleted but its seed. Data disks stay where they are. A domain of that name that is not ours is
    refused, untouched. A restore that was killed is taken back: the server is set aside again,
    under the name that it had.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment that makes room for itself.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    public_key
        The old guest's public key (PEM), used if its definition does not hold it.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.clear spec='{...}' generation=2 order='{...}'
    """
    return old_server.clear(_host(), spec, order, public_key)


@_reporting
def restore(spec, generation, order, of, nonce=""):
    """
    Put a server that was set aside back: disk, NVRAM, definition with autostart. It is not started.

    The place must be clear. A restore that was killed goes on when it is called again; ``clear``
    takes it back instead.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment that is rolled back.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    of
        Number of the deployment whose server is put back. If it was set aside more than once, the
        newest is.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.restore spec='{...}' generation=2 order='{...}' of=1
    """
    return old_server.restore(_host(), spec, order, of)


@_reporting
def define(spec, generation, order, master_public_key, registration=None, nonce=""):
    """
    Define the store's new server: the prepared disks and seed are renamed into place, the domain
    defined. A data disk that is there stays as it is.

    Called again for the same deployment it changes nothing if all is there, and goes on if it was
    killed before the end. What was not prepared, as it is not where the deployment began before an
    update, it makes itself.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    master_public_key
        Public key (PEM) of the only master that the guest may trust.

    registration
        Names of the keys for Uyuni that the seed has to have: the keys are in this minion's pillar.
        As long as they are not, ``waits`` says so. ``None``: the seed says nothing of Uyuni.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.define spec='{...}' generation=1 order='{...}' \
            master_public_key='...'
    """
    return new_server.define(_host(), spec, generation, order, master_public_key, registration)


@_reporting
def start(spec, generation, order, of=None, nonce=""):
    """
    Start the store's server and see that it keeps running.

    Tried ``start.attempts`` times with the pauses of ``start.backoff_s``; it has started when it
    ran for ``start.steady_s`` seconds without a break. One that runs already is only watched.
    From then on its autostart is on.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    of
        Number of the deployment whose server is started, if it is not this one: a restored server.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.start spec='{...}' generation=1 order='{...}'
    """
    return server.start(_host(), spec, generation, order, of)


@_reporting
def finish(spec, generation, order, nonce=""):
    """
    Take the seed away from the store's server, for good, and switch its autostart on.

    The seed is ejected from the running guest, its drive taken out of the definition, its file
    deleted.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.finish spec='{...}' generation=1 order='{...}'
    """
    return server.finish(_host(), spec, generation, order)


@_reporting
def discard(spec, generation, order, nonce=""):
    """
    Remove the server that this deployment made, or only made ready: domain, system disk, NVRAM and
    seed.

    A server of another deployment is left alone, and so are one that is not ours, data disks and
    what was set aside.
    ``left`` names what is still there of this one's.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.discard spec='{...}' generation=2 order='{...}'
    """
    return removal.discard(_host(), spec, generation, order)


@_reporting
def retire(spec, generation, order=None, data_disks=False, remove=False, nonce=""):
    """
    Remove all that the store has on this hypervisor, or list it.

    Domain, system disk, NVRAM, seed, console log, everything that was set aside. The guest is shut
    down first. The cached image stays, for other stores may use it, and so does a disk that is in
    another domain or another disk's backing file.

    Returned are ``found`` (what goes), ``kept`` (what stays, and why), ``removed``, and ``left``:
    what should have gone and is still there.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the store's last deployment.

    order
        As for the other steps. Without it nothing is removed.

    nonce
        What the runner sends to have the report sealed for its question.

    data_disks
        The data disks go too: the spec's, and those that a definition of the store's names.

    remove
        Without it nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.retire spec='{...}' generation=2 remove=True
    """
    return removal.retire(_host(), spec, order, data_disks, remove)


@_reporting
def prune(spec, generation, older_than_s, order=None, remove=False, nonce=""):
    """
    Remove the store's set-aside servers that are older than a given age, or list them.

    What a killed clearing or restore left is no set-aside server yet and stays. So does one whose
    disk is in a domain or another disk's backing file. Returned is what ``retire`` returns.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the store's last deployment.

    order
        As for the other steps. Without it nothing is removed.

    nonce
        What the runner sends to have the report sealed for its question.

    older_than_s
        Age in seconds, by the date in the name of the folder, and of those that came before it: a
        wrong clock makes none older than it is.

    remove
        Without it nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.prune spec='{...}' generation=2 older_than_s=2592000
    """
    return removal.prune(_host(), spec, older_than_s, order, remove)


@_reporting
def noted(spec, generation, nonce=""):
    """
    Return how far this hypervisor has noted the store to be, as the fact ``note``.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.noted spec='{...}' generation=1
    """
    return {}


@_reporting
def adopt(spec, generation, nonce=""):
    """
    Note the deployment of the server that is there, if nothing is noted of the store.

    For a hypervisor whose notes were lost. Returns the server's domain; a note that is there, or a
    domain that is not the store's, stays as it is.

    spec
        Spec of the store, as the pillar now describes it.

    generation
        Number of the deployment that the ledger takes the server for.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.adopt spec='{...}' generation=1
    """
    return server.adopt(_host(), spec)


@_reporting
def job(spec, generation, jid, nonce=""):
    """
    Say whether a job is running on this minion, as the fact ``running``.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    jid
        ID of the job.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.job spec='{...}' generation=1 jid=20261126140000000000
    """
    return {"running": bool(_of_salt("saltutil.find_job")(jid))}


@_reporting
def console(spec, generation, lines=50, nonce=""):
    """
    Return the last lines that the store's server wrote to its serial console.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    nonce
        What the runner sends to have the report sealed for its question.

    lines
        How many lines.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.console spec='{...}' generation=1
    """
    return server.console(spec, lines)


def health():
    """
    Say whether this minion can be a hypervisor. Changes nothing, and needs no store.

    CLI Example:

    .. code-block:: bash

        salt 'hv-*' store_hypervisor.health
    """
    return storelib.hypervisor.facts.health(_host())


def ring():
    """
    Ring the store's doorbell again, if it is time; end the schedule once the master has heard it.

    The minion's schedule calls it every minute, from the end of a highstate on. Returns whether
    the bell was rung.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.ring
    """
    return bell.ring(
        bell.MARKER,
        __pillar__.get("store_server", {}).get("store"),
        __salt__["event.send"],
        __salt__["schedule.delete"],
    )


def acknowledge():
    """
    Take it that the master has heard that this hypervisor is ready, and decided on it.

    It is rung no more for the boot that the marker is of. Returns whether there is a marker.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.acknowledge
    """
    return bell.acknowledge(bell.MARKER)
