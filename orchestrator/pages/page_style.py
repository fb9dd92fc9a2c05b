"""The look of a report: one style sheet, light and dark by the reader's setting, light on paper.

The ledger's names have a colour each, as variables, so that bars and keys agree.
"""

STYLE = """
:root{--paper:#f6f5f1;--card:#fff;--ink:#1d2126;--soft:#666d76;--faint:#9aa1aa;--line:#e2e0d8;
--accent:#1f6feb;
--good:#1a8f6b;--bad:#c8324a;--warm:#d9822b;--curve:#2457c5;--point:#c06a10;--band:#2457c5;
--productive:#2a9d78;--startup:#93a5bd;--compile:#7f6bd1;--data-wait:#e2b13c;--save:#4589d6;
--evaluation:#4cbbd0;
--recovery:#ea7a3c;--lost-work:#c8324a;--shutdown:#b5ada0;--waiting:#dccb9f;--nobody:#6b6f76}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1d2127;--ink:#e8eaed;--soft:#a5adb8;
--faint:#727a85;
--line:#313740;--accent:#6ea8ff;--good:#43c99a;--bad:#ff6b7f;--warm:#f0a04b;--curve:#7ab0ff;--point:#f0b35a;
--band:#7ab0ff;
--startup:#7488a3;--shutdown:#857d72;--waiting:#a99a70;--nobody:#4a4f57}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#111;--soft:#444;--faint:#777;--line:#ccc;--curve:#2457c5;
--point:#c06a10;
--band:#2457c5;--bad:#c8324a;--good:#1a8f6b;--warm:#b5651d}section,.cards,tr,figure{break-inside:avoid}
section.long{break-inside:auto}body{font-size:10pt}main{padding:0;max-width:none}}
*{box-sizing:border-box}
html{-webkit-print-color-adjust:exact;print-color-adjust:exact}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 24px 60px}
header{margin-bottom:22px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 4px}
h3{font-size:14px;margin:18px 0 4px}
p{margin:0 0 10px}
.story{font-size:17px;max-width:60em}
.note,.soft{color:var(--soft)}
.note{font-size:13.5px;max-width:64em}
.pill{display:inline-block;vertical-align:5px;margin-left:12px;padding:2px 11px;border-radius:99px;
font-size:13px;
font-weight:600;letter-spacing:0;color:#fff;background:var(--soft)}
.pill.finished{background:#1a8f6b}.pill.running,.pill.starting{background:#1f6feb}.pill.failed,
.pill.abandoned{background:#c8324a}
.pill.stopped,.pill.waiting{background:#b06a1a}
.cards{display:grid;grid-template-columns:repeat(6,1fr);gap:12px;margin:0 0 14px}
.card,section{background:var(--card);border:1px solid var(--line);border-radius:12px}
.card{padding:14px 16px}
.card b{display:block;font-size:25px;line-height:1.25;font-weight:650;letter-spacing:-.02em;
white-space:nowrap;
font-variant-numeric:tabular-nums}
.card span{display:block;font-size:13px;color:var(--soft)}
.card small{display:block;font-size:12px;color:var(--faint);line-height:1.35}
section{padding:18px 20px 16px;margin:0 0 14px}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px;align-items:start;margin-bottom:14px}
.two section{margin:0}
svg{display:block;width:100%;height:auto;font-family:inherit}
svg *{stroke-linejoin:round}
figure{margin:8px 0 4px}
img{width:100%;height:auto;display:block;border-radius:4px;background:#fff;image-rendering:pixelated}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px}
.maps figure{max-width:520px}
.weights img{image-rendering:auto;width:auto;max-width:100%}
.weights .maps img{width:100%}
figcaption{font-size:13px;color:var(--soft);margin:0 0 4px}figcaption b{color:var(--ink)}
.scale{float:right;white-space:nowrap}
.scale i{display:inline-block;width:56px;height:9px;margin:0 5px;border-radius:2px;
background:linear-gradient(90deg,#214f9e,#fff,#b22430)}
.wide{overflow-x:auto}
.ledger td:nth-child(3){width:36%}
.ledger td:nth-child(1),td code{white-space:nowrap}
.parts td:nth-child(1){min-width:9em}
.attempts td:nth-child(5){white-space:nowrap}.attempts td:nth-child(9){min-width:8em}
table{border-collapse:collapse;width:100%;font-size:14px;margin:6px 0 2px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12.5px;white-space:nowrap}
th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
tr:last-child td{border-bottom:0}
tr.sum td{border-top:2px solid var(--ink);font-weight:650}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.zero td{color:var(--faint)}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px;vertical-align:-1px}
.legend{font-size:13px;color:var(--soft);margin:6px 0 0}
.legend span{display:inline-block;margin-right:16px;white-space:nowrap}
.stack{display:flex;min-width:150px;height:11px;margin-top:5px}.stack i{flex:none;height:100%}
.bar{display:block;height:9px;border-radius:3px;margin-top:6px;min-width:1px}
.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:6px 0 0;font-size:14px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}
pre{margin:6px 0 0;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.45}
.columns{columns:2;column-gap:28px}
footer{color:var(--faint);font-size:12.5px;margin-top:20px}
@media (max-width:900px){.cards{grid-template-columns:repeat(3,1fr)}.two{grid-template-columns:1fr}}
@media (max-width:560px){.cards{grid-template-columns:repeat(2,1fr)}.columns{columns:1}
main{padding:20px 12px}
figure{overflow-x:auto}figure svg{min-width:680px}.ledger :is(td,th):nth-child(2){display:none}}
@media print{table{font-size:8pt}th{font-size:7.5pt;white-space:normal}
th,td{padding:3px 6px 3px 0}.wide{overflow:visible}}
"""
