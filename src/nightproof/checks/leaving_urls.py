"""Judge addresses that an answer would make a link or an image of.

Only `https` to hosts that the service allows stays live. What is not written in the plainest form (another scheme,
credentials, an odd port, a backslash, a percent sign in the host, a look-alike letter) is not argued about: it goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

MOST_QUERY_CHARS = 64
"""A longer query carries data out."""

_PLAIN = re.compile(
    r"(https)://([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?::(\d{1,5}))?((?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?)"
    r"(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%/?-]*))?(?:#([A-Za-z0-9._~!$&'()*+,;=:@%/?-]*))?",
    re.IGNORECASE | re.ASCII,
)
_ENTITY = re.compile(r"&(?!amp;)#?\w{1,31};")
_ADDRESS_INSIDE = re.compile(r"//|\\|(?:https?|javascript|data|ftp|file):", re.IGNORECASE)

# What the finders of links in Markdown renderers take for the end of a host name, and more; two letters are countries.
_TLDS = """
ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bv bw by bz ca
cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr
ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm
jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq
mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa
re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn
to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw aero agency app arpa art asia
biz blog cat cfd click cloud club com coop dev digital edu email finance fun gov host icu info int jobs life
link live lol ltd media mil mobi museum name net network news ninja online onion org page post pro rest sbs
shop site space store stream studio support systems tech tel today tools top travel vip web website wiki work
world xxx xyz zip mov zone рф
"""
TLDS = frozenset(_TLDS.split())
TLD_BEGINNINGS = frozenset(tld[:many] for tld in (*TLDS, "xn--") for many in range(len(tld) + 1))


class Hosts:
    """The hosts that links may point to."""

    def __init__(self, allowed: Sequence[str]) -> None:
        lowered = [host.strip().lower().rstrip(".") for host in allowed]
        self._exact = frozenset(host for host in lowered if not host.startswith("*."))
        self._below = tuple(host[1:] for host in lowered if host.startswith("*."))

    def __repr__(self) -> str:
        return f"<Hosts {sorted(self._exact)} and below {self._below}>"

    def admits(self, host: str) -> bool:
        """Say whether `host` is allowed; with a port only as it is listed."""
        lowered = host.lower()
        return lowered in self._exact or (bool(self._below) and lowered.endswith(self._below))

    def refuses(self, url: str) -> str:
        """Return why `url` may not be live, or nothing."""
        found = _PLAIN.fullmatch(url)
        if found is None:
            scheme = url.partition(":")[0].lower()
            return "form" if scheme == "https" else "scheme"
        _, host, port, path, query, fragment = found.groups(default="")
        if not self.admits(host if port in ("", "443") else f"{host}:{port}"):
            return "host"
        if len(query) + len(fragment) > MOST_QUERY_CHARS:
            return "long_query"
        rest = f"{path}?{query}#{fragment}"
        if _ENTITY.search(rest) or _ADDRESS_INSIDE.search(unquote(unquote(rest))):
            return "address_inside"
        return ""
