// What a figure can be saved as, made in the browser from the JSON that it was drawn from.
const ARRAYS = {
  f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array,
  i4: Int32Array, u4: Uint32Array,
};

// The values of a trace's axis as a list, or as a list of rows: plotly's Python side sends arrays in base64.
function decoded(values) {
  if (!values?.bdata) return values ?? null;
  const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
  let flat = [...new ARRAYS[values.dtype](bytes.buffer)];
  if (values.dtype === 'f4') flat = flat.map((value) => Number(value.toPrecision(9))); // no more digits than it has
  const [rows, columns] = String(values.shape ?? flat.length).split(',').map(Number);
  return columns ? Array.from({ length: rows }, (_, i) => flat.slice(i * columns, (i + 1) * columns)) : flat;
}

const missing = (value) => value === null || value === undefined || Number.isNaN(value);

function quoted(value) {
  const text = missing(value) ? '' : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// A text as it reads in the figure, where plotly is given some signs as references.
const plain = (text) => text.replaceAll('<br>', ' ').replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&');

// What stands on a category axis instead of a key.
function named(axis) {
  const labels = new Map((axis?.tickvals ?? []).map((key, i) => [key, axis.ticktext?.[i]]));
  return (value) => (typeof value === 'string' ? plain(labels.get(value) ?? value) : value);
}

// The points of a figure: trace, x, y, and z where there is one; a heat map gives a row a cell. Points without an x,
// as gaps in lines, are left out, and so are traces that say in their `meta` that they show points again.
function csv({ data, layout }) {
  const deep = data.some((trace) => trace.z !== undefined), space = data.some((trace) => trace.type.endsWith('3d'));
  const names = deep ? ['x', 'y', 'z'] : ['x', 'y'];
  const titles = ['x', 'y', ...(space ? ['z'] : [])].map((name) => {
    return (space ? layout.scene : layout)?.[`${name}axis`]?.title?.text || name;
  });
  const lines = [['trace', ...titles, ...(deep && !space ? ['value'] : [])]];
  const across = named(layout?.xaxis), below = named(layout?.yaxis);
  for (const trace of data.filter((one) => one.meta !== 'again')) {
    const parts = names.map((name) => decoded(trace[name]));
    let rows;
    if (trace.type === 'heatmap') {
      const [x, y, z] = parts;
      rows = y.flatMap((row, i) => x.map((column, j) => [column, row, z[i][j]]));
    } else {
      const length = Math.max(...parts.map((part) => part?.length ?? 0));
      rows = Array.from({ length }, (_, i) => parts.map((part) => (part ? part[i] : '')));
    }
    for (const [x, y, ...rest] of rows) {
      if (!missing(x)) lines.push([plain(trace.name ?? ''), across(x), below(y), ...rest]);
    }
  }
  return lines.map((line) => `${line.map(quoted).join(',')}\r\n`).join('');
}

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');

// A page of its own that needs no network: plotly.js is in it, and the figure in the colours it had here.
async function page({ data, layout }, { words, alt }, template, address) {
  const script = await (await fetched(address)).text();
  const shown = { ...layout, template, height: undefined }, config = { responsive: true, displaylogo: false };
  const figure = { data, layout: shown, config }, { font, paper_bgcolor: ground } = template.layout;
  const json = JSON.stringify(figure).replaceAll('<', '\\u003c'); // no text in it can end the script
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>${(layout.title?.text ?? 'RCPU Explorer').replaceAll(/<[^>]*>/g, ' ')}</title></head>
<body style="margin: 0; background: ${ground}; color: ${font.color}; font-family: ${font.family}">
<div id="figure" role="figure" aria-label="${escaped(alt)}" style="height: max(80vh, ${layout.height}px)"></div>
<div style="max-width: 45rem; margin: auto; padding: 1rem; line-height: 1.6">${words}<p><em>${escaped(alt)}.</em></p></div>
<script>${script}</script>
<script>Plotly.newPlot('figure', ${json})</script>
</body>
</html>
`;
}

// The address names the version of what it leads to.
async function fetched(address) {
  const answer = await fetch(address, { cache: 'force-cache' });
  if (!answer.ok) throw new Error(`${address} answers ${answer.status}`);
  return answer;
}

function save(name, text, kind) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser reads it meanwhile
}
