// What a figure can be saved as, made in the browser from the JSON that it was drawn from.
const ARRAYS = {
  f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array,
  i4: Int32Array, u4: Uint32Array,
};

// The values of a trace's axis as a list, or as a list of rows: plotly's Python side sends arrays in base64.
function decoded(values) {
  if (!values?.bdata) return values ?? null;
  const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
  const flat = [...new ARRAYS[values.dtype](bytes.buffer)];
  const [rows, columns] = String(values.shape ?? flat.length).split(',').map(Number);
  return columns ? Array.from({ length: rows }, (_, i) => flat.slice(i * columns, (i + 1) * columns)) : flat;
}

function quoted(value) {
  const text = value === null || value === undefined ? '' : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// The points of a figure: trace, x, y, and z where there is one; a heat map gives a row a cell. Gaps in lines are left
// out, and so are traces that say in their `meta` that they show points again.
function csv({ data, layout }) {
  const deep = data.some((trace) => trace.z !== undefined), space = data.some((trace) => trace.type.endsWith('3d'));
  const names = deep ? ['x', 'y', 'z'] : ['x', 'y'];
  const titles = ['x', 'y', ...(space ? ['z'] : [])].map((name) => {
    return (space ? layout.scene : layout)?.[`${name}axis`]?.title?.text || name;
  });
  const lines = [['trace', ...titles, ...(deep && !space ? ['value'] : [])]];
  for (const trace of data.filter((one) => one.meta !== 'again')) {
    const parts = names.map((name) => decoded(trace[name]));
    let rows;
    if (trace.type === 'heatmap') {
      const [x, y, z] = parts;
      rows = y.flatMap((below, i) => x.map((across, j) => [across, below, z[i][j]]));
    } else {
      const length = Math.max(...parts.map((part) => part?.length ?? 0));
      rows = Array.from({ length }, (_, i) => parts.map((part) => (part ? part[i] : '')));
    }
    lines.push(...rows.filter((row) => !Number.isNaN(row[0])).map((row) => [trace.name ?? '', ...row]));
  }
  return lines.map((line) => `${line.map(quoted).join(',')}\r\n`).join('');
}

// A page of its own that needs no network: plotly.js is in it, and the figure in the colours it had here.
async function page({ data, layout }, template, address) {
  const script = await (await fetch(address, { cache: 'force-cache' })).text();
  const figure = { data, layout: { ...layout, template, height: undefined }, config: { responsive: true, displaylogo: false } };
  const json = JSON.stringify(figure).replaceAll('<', '\\u003c'); // no text in it can end the script
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>RCPU Explorer</title></head>
<body style="margin: 0; background: ${template.layout.paper_bgcolor}">
<div id="figure" style="height: 100vh"></div>
<script>${script}</script>
<script>Plotly.newPlot('figure', ${json})</script>
</body>
</html>
`;
}

function save(name, text, kind) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser reads it meanwhile
}
