"""The look of the report's page: light and dark, on a phone, in print. Colors of arms are those of plots.py."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #566069; --line: #d9dee4; --card: #f5f7f9;
  --accent: #0b63b5; --warn: #fff4d6; --warn-line: #a87700; --row: #e8f1fb; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --ink: #e6e9ed; --soft: #a3adb8; --line: #343b43;
  --card: #1c2126; --accent: #7cb8f2; --warn: #33290f; --warn-line: #c8920f; --row: #1f3347; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.25rem; }
body > header { padding-top: 2rem; }
h1 { font-size: 1.2rem; font-weight: 600; line-height: 1.3; color: var(--soft); margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
section { padding: 1.6rem 0; border-top: 1px solid var(--line); }
.lead { font-size: 1.9rem; line-height: 1.25; font-weight: 600; margin: .2rem 0 .4rem; text-wrap: balance; }
.lead b { color: var(--accent); }
.note, .missing, small, .plot p, .about { color: var(--soft); }
.about { margin: 0 0 1rem; overflow-wrap: anywhere; }
.note, .plot p, small { font-size: .84rem; }
small { display: block; font-weight: normal; }
thead small { white-space: normal; min-width: 8.5rem; }
a { color: var(--accent); }
body > header > nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: .9rem 0; font-size: .92rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .8rem;
  margin: 1.1rem 0; }
.facts > div { background: var(--card); border-radius: 6px; padding: .6rem 1rem .7rem; }
.facts dt { color: var(--soft); font-size: .84rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.facts dd b { font-weight: 650; }
.warnings { background: var(--warn); border: 1px solid var(--warn-line); border-left-width: 6px; border-radius: 6px;
  padding: .8rem 1.1rem; margin: 1rem 0; }
.warnings h2 { font-size: 1rem; margin: 0 0 .3rem; }
.warnings ul { margin: 0; padding-left: 1.2rem; }
.verdicts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem;
  margin: 1rem 0; }
.verdicts div { background: var(--card); border-radius: 6px; border-left: 4px solid var(--accent);
  padding: .7rem 1rem; }
.verdicts dt { font-weight: 600; margin-bottom: .2rem; }
.verdicts dd { margin: .25rem 0 0; font-size: .9rem; }
.verdicts dd:first-of-type { font-size: 1rem; font-weight: 600; }
.verdicts dd span:first-child { color: var(--soft); font-weight: 400; margin-right: .2em; }
.arm { white-space: nowrap; }
.arm i { display: inline-block; width: 1.3em; margin: 0 .4em 0 .15em; vertical-align: .25em; }
.arrow { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: 0 0 .6rem; font-size: .92rem; }
.scroll { overflow-x: auto; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .84rem; padding-bottom: .4rem; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 8.5rem; }
th[scope="row"], thead th:first-child { position: sticky; left: 0; background: var(--page); }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.group th { background: var(--card); font-size: .84rem; font-weight: 600; color: var(--soft); }
.ci { color: var(--soft); }
code { font-size: .86em; overflow-wrap: anywhere; }
figure { margin: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: 1rem 1.6rem; margin: .4rem 0 .8rem; }
.plots.four { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.plots.large { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.plot figcaption { font-size: .92rem; margin-bottom: .2rem; }
.plot p { margin: .2rem 0 0; }
.plot svg { display: block; width: 100%; max-width: 27rem; height: auto; font-family: inherit; }
.large .plot svg { max-width: 34rem; }
.plot svg * { stroke-linejoin: round; }
.plot svg a:hover, .plot svg a:focus { color: var(--accent); opacity: .6; }
.store { position: absolute; width: 0; height: 0; overflow: hidden; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 11rem), 1fr)); gap: .8rem; }
.tile svg, a.thumb svg { display: block; width: 100%; }
.tile svg { max-height: 16rem; }
.tile figcaption { font-size: .84rem; margin-top: .2rem; }
.halo { stroke: #000; stroke-width: 4.5; opacity: .75; }
.line { stroke-width: 1.8; }
.line.truth { stroke-dasharray: 5 3; }
.panel { margin: 0 0 1.4rem; }
.panel > figcaption { font-size: .92rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
a.thumb { display: block; width: 8.5rem; }
.filters { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: end; margin: .6rem 0; }
.filters label { font-size: .84rem; color: var(--soft); }
.filters input { display: block; font: inherit; color: var(--ink); background: var(--page);
  border: 1px solid var(--soft); border-radius: 4px; padding: .25rem .5rem; width: 13rem; }
.filters input[type="number"] { width: 5.5rem; }
.filters input[type="checkbox"] { display: inline; width: auto; margin: 0 .4em 0 0; vertical-align: -.1em; }
.filters [hidden], .filters[hidden] { display: none; }
.many { max-height: 34rem; overflow: auto; border: 1px solid var(--line); border-radius: 6px; }
.many thead th { position: sticky; top: 0; z-index: 1; background: var(--page); }
.many thead th:first-child { z-index: 2; }
.many caption { padding: .4rem .7rem; }
.many thead th, .many thead th:not(:first-child) { white-space: normal; }
.many thead small { display: inline; }
.many td, .many tbody th { padding-top: .3rem; padding-bottom: .3rem; }
.many .text { text-align: left !important; }
.many tbody th { white-space: nowrap; max-width: min(16rem, 45vw); overflow: hidden; text-overflow: ellipsis; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
th button::after { content: " ↕"; color: var(--soft); }
th[aria-sort="ascending"] button::after { content: " ▲"; }
th[aria-sort="descending"] button::after { content: " ▼"; }
tr:target > *, tr:target > th[scope="row"], tr.open > *, tr.open > th[scope="row"] { background: var(--row); }
.failed { font-weight: 600; }
.failed::before { content: "✗ "; }
.case { display: none; }
.case:target { display: block; position: fixed; inset: 0; z-index: 9; overflow: auto; background: var(--page);
  padding: 1rem 1.25rem 2rem; }
.case > * { max-width: 74rem; margin-left: auto; margin-right: auto; }
.case h3 { font-size: 1.3rem; margin-top: 0; margin-bottom: .6rem; overflow-wrap: anywhere; }
.case nav { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; margin-bottom: .8rem; }
.case nav a { padding: .2rem 0; }
.case nav a:last-child { margin-left: auto; font-weight: 600; }
.case .tiles { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.case .tile svg { max-height: 60vh; }
.case .tiles { margin-bottom: .7rem; }
.printed { display: none; }
footer { padding-top: 1.4rem; padding-bottom: 2.5rem; border-top: 1px solid var(--line); color: var(--soft); }
footer strong { color: var(--ink); }
@media (max-width: 40rem) { .lead { font-size: 1.45rem; } h2 { font-size: 1.15rem; } .many { max-height: 26rem; }
  .tiles { grid-template-columns: 1fr 1fr; } }
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --card: #f3f3f3;
  --warn: #fff4d6; --row: #fff; }
  body { font-size: 10pt; } nav, .filters, .case, .case:target { display: none !important; }
  .scroll, .many { overflow: visible; max-height: none; border: 0; } .lead { font-size: 16pt; }
  th[scope="row"], thead th { position: static !important; }
  .many tbody tr:nth-child(n+41) { display: none; } .printed { display: block; } th button::after { content: ""; }
  .tiles { grid-template-columns: repeat(4, 1fr); } .tile svg { max-height: 9rem; }
  figure, tr, .warnings, .verdicts div { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:;
 script-src $script_source">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
$facts
$verdicts
$warnings
<nav aria-label="Sections">$links</nav>
</header>
<main>
$sections</main>
<footer><p>$footer</p></footer>
$store$cards<script>$script</script>
</body>
</html>
"""
