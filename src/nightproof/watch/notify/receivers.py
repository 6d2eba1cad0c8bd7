"""Make the receivers that the settings name."""

from __future__ import annotations

from pathlib import Path

from nightproof.base.errors import SettingError
from nightproof.settings.settings import NotifySettings, Settings
from nightproof.watch.notify.alertmanager import Alertmanager
from nightproof.watch.notify.apprise import Apprise
from nightproof.watch.notify.post import Sender
from nightproof.watch.notify.receiver import Receiver
from nightproof.watch.notify.webhook import Webhook


def receivers_of(settings: Settings, sender: Sender) -> list[Receiver]:
    """Return the receivers that are set, each with another name. Raises SettingError for one that cannot be."""
    notify = settings.notify
    found: list[Receiver] = []
    for url in settings.alertmanager.split():
        found.append(Alertmanager(_address("alertmanager", url), sender, repeat_s=settings.alerts.repeat_s))
    if notify.webhook:
        url = _address("notify.webhook", notify.webhook)
        found.append(Webhook(url, sender, secret=_secret(notify)))
    for url in _apprise_urls(notify):
        found.append(Apprise(url, within_s=notify.within_s))
    by_name = {one.name: one for one in found}
    return list(by_name.values())


def heartbeat_of(notify: NotifySettings) -> str:
    """Return the heartbeat's address, or nothing. Raises SettingError for one that cannot be."""
    return _address("notify.heartbeat", notify.heartbeat) if notify.heartbeat else ""


def _address(knob: str, url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"{knob} is no http:// or https:// address.", hint="Write http://host:port.")
    return url


def _secret(notify: NotifySettings) -> str:
    if notify.webhook_secret_file is None:
        return notify.webhook_secret
    return _read(notify.webhook_secret_file, "notify.webhook_secret_file")


def _apprise_urls(notify: NotifySettings) -> list[str]:
    urls = notify.apprise.split()
    if notify.apprise_file is not None:
        lines = _read(notify.apprise_file, "notify.apprise_file").splitlines()
        urls += [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return urls


def _read(path: Path, knob: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{knob}: {path} cannot be read.", hint="Make it readable for the server."
        ) from error
