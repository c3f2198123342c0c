"""The style of the page and of the pictures, light and dark."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d2430; --soft: #667085;
  --line: #d9dde3; --shade: #1d243044; --mean: #1f6feb; --band: #1f6feb33; --most: #b4481e;
  --mark: #8a6d00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ee; --soft: #98a2b3;
  --line: #343b46; --shade: #e6e9ee55; --mean: #6cb0ff; --band: #6cb0ff33; --most: #ff9a66;
  --mark: #d9b640; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 3rem 0 0; }
h3 { font-size: .95rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0; max-width: 60rem; } .soft, figcaption { color: var(--soft); }
nav a { color: var(--mean); margin-right: .9rem; white-space: nowrap; }
/* A shade at the side where there is more, which the paper covers at the end of the way. */
.wide { overflow-x: auto; margin-top: .75rem; background:
  linear-gradient(90deg, var(--paper) 1.5rem, transparent) 0 0 / 3rem 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 1.5rem, transparent) 100% 0 / 3rem 100% no-repeat local,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / 1rem 100% no-repeat,
  linear-gradient(270deg, var(--shade), transparent) 100% 0 / 1rem 100% no-repeat; }
.wide svg { min-width: 36rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
.words td, .words th { text-align: left; }
.words td { white-space: normal; min-width: 8rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
td.best { font-weight: 700; } td.bad { color: var(--most); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr));
  gap: 1rem 1.5rem; }
figure { margin: 0; } figure > b { font-weight: 600; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg text.name { fill: var(--ink); }
.axis { stroke: var(--line); } .band { fill: var(--band); }
.mean { fill: none; stroke: var(--mean); stroke-width: 1.5; }
.most { fill: none; stroke: var(--most); stroke-width: 1; }
.mark { stroke: var(--mark); stroke-dasharray: 3 3; } .whisker { stroke: var(--soft); }
.p50 { fill: var(--mean); } .p99 { fill: var(--most); } .other { fill: var(--soft); }
.curve { fill: none; stroke-width: 1.8; } .thin { stroke-width: .7; }
.dashed { stroke-dasharray: 5 3; }
.c0 { stroke: #1f6feb; } .c1 { stroke: #d1490e; } .c2 { stroke: #1a8a4a; } .c3 { stroke: #a22bb5; }
.c4 { stroke: #b98900; } .c5 { stroke: #0c8f9c; } .c6 { stroke: #d02a6c; } .c7 { stroke: #7a7f89; }
.says { border-left: 4px solid var(--mean); padding: .4rem 0 .4rem 1rem; margin: .9rem 0; }
.says b { font-size: 1.1rem; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
details { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: 12.5px; line-height: 1.4; }
"""
