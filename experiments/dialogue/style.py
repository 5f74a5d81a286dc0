"""How the dialogue page looks: one blue in nine shades, on light and on dark ground.

Shades differ in lightness, which no colour blindness hides; the text on each has a contrast of
4.5 : 1 or more.
"""

import numpy as np

#: A shade begins at each of these times a uniform mass, from the faintest on.
LEVELS = 2.0 ** np.arange(-2, 7)

#: (ground, text): of the page, then of each shade.
LIGHT = (
    ("#ffffff", "#1b1f24"),
    ("#edf4fb", "#1b1f24"),
    ("#dae8f5", "#1b1f24"),
    ("#bfd8ec", "#1b1f24"),
    ("#9ac6e1", "#1b1f24"),
    ("#6fb0d8", "#1b1f24"),
    ("#4a97c9", "#101418"),
    ("#2271b4", "#ffffff"),
    ("#0c529b", "#ffffff"),
    ("#08306b", "#ffffff"),
)
DARK = (
    ("#15191e", "#e3e7eb"),
    ("#15293f", "#e3e7eb"),
    ("#17375a", "#e3e7eb"),
    ("#1a4775", "#f0f4f8"),
    ("#1f5890", "#ffffff"),
    ("#2a6aa8", "#ffffff"),
    ("#4f93c8", "#0d1115"),
    ("#7db2db", "#0d1115"),
    ("#acd0ea", "#0d1115"),
    ("#e0eef9", "#0d1115"),
)

_RULES = """
:root{color-scheme:light dark;--line:#d5dae0;--soft:#5c6670}
@media(prefers-color-scheme:dark){:root{--line:#39424c;--soft:#9aa5b0}}
*{box-sizing:border-box;print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{max-width:56rem;margin:2rem auto;padding:0 1rem;background:var(--b0);color:var(--t0);
font:1rem/1.6 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25}
h2{font-size:1.05rem;margin:0 0 .75rem;overflow-wrap:anywhere}
article{border:1px solid var(--line);border-radius:.6rem;padding:1.2rem;margin:1.5rem 0}
article>div{position:relative}
.legend{color:var(--soft);font-size:.88rem}
.legend span{padding:.1rem .5rem}
.turn{display:grid;grid-template-columns:9rem 1fr;gap:1rem;margin:.35rem 0;white-space:pre-wrap;
overflow-wrap:anywhere}
.turn b{font-weight:600;color:var(--soft)}
.true,.reply{border-top:1px solid var(--line);padding-top:.35rem}
.reply span{font-weight:600}
input{position:absolute;opacity:0}
.rows{margin:1.2rem 0 .8rem;font-size:.88rem;font-variant-numeric:tabular-nums}
.row{display:grid;grid-template-columns:2.5rem 1fr 3.6rem 4.4rem;gap:0 .6rem;align-items:center;
margin:0;padding:.25rem .4rem;border-radius:.3rem;border:1px solid transparent}
label{cursor:pointer}
label:hover{border-color:var(--line)}
.row>:nth-child(3),.row>:nth-child(4){text-align:right}
.heads,.words{color:var(--soft)}
.words{grid-column:2/-1;font-size:.82rem;overflow-wrap:anywhere}
.strip{display:flex;height:.9rem;border:1px solid var(--line)}
.doc{border-top:1px solid var(--line);padding-top:.8rem;white-space:pre-wrap;
overflow-wrap:anywhere;line-height:1.75}
@media(max-width:36rem){.turn{grid-template-columns:1fr;gap:0}}
"""


def head(title: str, layers: int) -> str:
    """The page up to its body, for that many layers; the title is escaped already."""
    light, dark = (f":root{{{_variables(shades)}}}" for shades in (LIGHT, DARK))
    rules = [light, f"@media(prefers-color-scheme:dark){{{dark}}}", _RULES.strip()]
    rules += [f".k{k}{{{_painted(k)}}}" for k in range(len(LIGHT))]
    for j in range(layers):
        rules.append(f".L{j}:checked~.rows .R{j}{{border-color:var(--t0)}}")
        rules.append(f".L{j}:focus-visible~.rows .R{j}{{outline:2px solid var(--b6)}}")
        for k in range(1, len(LIGHT)):
            rules.append(f".L{j}:checked~.doc .m{j}-{k}{{{_painted(k)}}}")
    nothing_fetched = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{nothing_fetched}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{chr(10).join(rules)}\n</style>\n</head>\n"
    )


def _variables(shades):
    return "".join(f"--b{k}:{ground};--t{k}:{text};" for k, (ground, text) in enumerate(shades))


def _painted(shade):
    return f"background:var(--b{shade});color:var(--t{shade})"
