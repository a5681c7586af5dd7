"""What a page needs is in it: styles, scripts and data, under a policy that lets it load nothing else."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from analysis.printing import to_json

if TYPE_CHECKING:
    from markupsafe import Markup

_BY_ITSELF: Final = ["theme.js", "table.js"]
"""Scripts of a page without figures."""

_FOR_FIGURES: Final = "figures.js"

_IN_SCRIPT: Final = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
"""What could end a script element or, in JSON, a line of JavaScript."""


def style() -> "Markup":
    """The page's style sheet."""
    return _asset("style.css")


def scripts(library: "Markup | None") -> "list[Markup]":
    """The page's scripts in the order in which they run; with those that draw figures where their library is given."""
    drawing = [] if library is None else [library, _asset(_FOR_FIGURES)]
    return [*(_asset(name) for name in _BY_ITSELF), *drawing]


@cache
def vega() -> "Markup":
    """Vega, Vega-Lite and vega-embed, of the version that Altair writes specifications for, as one script."""
    import altair
    import vl_convert

    version = ".".join(altair.VEGALITE_VERSION.split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return _as_script(bundle)


def policy(style: str, scripts: "list[Markup]") -> str:
    """A Content-Security-Policy under which these run, and nothing is fetched, framed, submitted or evaluated."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {allowed}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def as_data(content: Any) -> "Markup":
    """JSON for a script element of type application/json: no text in it can end the element."""
    text = to_json(content, indent=None)
    from markupsafe import Markup

    return Markup(text.translate(_IN_SCRIPT))  # noqa: S704 - escaped on this line


def _asset(name: str) -> "Markup":
    return _as_script(files("analysis.report").joinpath(name).read_text(encoding="utf-8"))


def _as_script(source: str) -> "Markup":
    """Source as it may stand in an element; a browser hashes what it reads, and reads no carriage return."""
    text = source.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - our own files, and a library's


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
