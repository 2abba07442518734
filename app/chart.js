// A plotly figure that plotly itself redraws in place, in the colours and letters of the app's theme.
const boxes = new WeakMap();
const LARGER = 'M32 32h160v64H96v96H32V32z m288 0h160v160h-64V96h-96V32z M32 320h64v96h96v64H32V320z m384 0h64v160H320v-64h96v-96z';
let loading = null;

async function load(url) {
  const answer = await fetch(url, { cache: 'force-cache' }); // the address names the version
  if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
  const script = document.createElement('script');
  script.src = URL.createObjectURL(await answer.blob());
  await new Promise((done, failed) => {
    Object.assign(script, { onload: done, onerror: () => failed(new Error(`${url} cannot be read`)) });
    document.head.append(script);
  });
  return window.Plotly;
}

function plotly(url) {
  loading ??= load(url).catch((error) => {
    loading = null;
    throw new Error(`Its script did not come: ${error.message}. Is the app still being served?`);
  });
  return loading;
}

function theme(element) {
  const style = getComputedStyle(element), value = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const faded = (color, share) => {
    const pen = document.createElement('canvas').getContext('2d');
    pen.fillStyle = color; // reads back as #rrggbb
    return `rgba(${[1, 3, 5].map((i) => parseInt(pen.fillStyle.slice(i, i + 2), 16))}, ${share})`;
  };
  const text = value('text-color'), ground = value('background-color'), soft = faded(text, 0.66), line = faded(text, 0.12);
  const axis = {
    color: soft, gridcolor: line, zerolinecolor: line, tickcolor: line, minor: { gridcolor: line }, automargin: true,
    title: { font: { size: 14 } },
  };
  const deep = { color: soft, gridcolor: faded(text, 0.2), zerolinecolor: faded(text, 0.35), showbackground: false };
  return { layout: {
    font: { family: value('font'), color: soft, size: 12 },
    title: {
      font: { family: value('heading-font'), color: value('heading-color'), size: 16, weight: 600 },
      x: 0, xanchor: 'left', pad: { l: 4 },
    },
    paper_bgcolor: ground, plot_bgcolor: ground,
    xaxis: { ...axis, showgrid: false, zeroline: false, title: { standoff: 20, ...axis.title } },
    yaxis: { ...axis, title: { standoff: 24, ...axis.title } },
    scene: { xaxis: deep, yaxis: deep, zaxis: deep },
    margin: { pad: 8 },
    hoverlabel: { bgcolor: ground, bordercolor: value('border-color'), font: { color: text } },
  }, data: { heatmap: [{ colorbar: { outlinewidth: 0 } }] } };
}

function fit({ plot, height }) {
  const full = document.fullscreenElement === plot;
  return { width: plot.clientWidth || undefined, height: full ? window.innerHeight : height };
}

async function draw(box) {
  // Only the newest figure counts: whatever came in between while one was being drawn is left out.
  if (box.drawing) return;
  box.drawing = true;
  try {
    const Plotly = await plotly(box.data.plotly);
    while (box.due && !box.gone) {
      box.due = false;
      if (box.failed) box.plot.textContent = '';
      box.failed = false;
      const { data, layout } = JSON.parse(box.data.figure);
      // What a person zoomed, turned or hid stays so while the figure shows the same thing.
      box.height = layout.height;
      Object.assign(layout, { template: theme(box.plot), uirevision: layout.uirevision ?? layout.title?.text }, fit(box));
      await Plotly.react(box.plot, data, layout, box.options);
      if (!box.listening) listen(box, Plotly);
    }
  } catch (error) {
    window.Plotly?.purge(box.plot);
    box.failed = true;
    box.plot.textContent = `The figure could not be drawn. ${error.message}`;
  }
  box.drawing = false;
}

function listen(box, Plotly) {
  box.listening = true;
  const pick = (event) => {
    const points = (event?.points ?? []).map((point) => [point.customdata].flat()[0]).filter(Number.isInteger);
    if (points.length && box.data.pick) box.pick({ points: points.slice(0, 4096), at: Date.now() });
  };
  box.plot.on('plotly_click', pick);
  box.plot.on('plotly_selected', pick);
  new ResizeObserver(() => {
    const { width, height } = fit(box), now = box.plot.layout;
    if (!box.gone && width && (width !== now.width || height !== now.height)) Plotly.relayout(box.plot, { width, height });
  }).observe(box.plot);
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  let box = boxes.get(parentElement);
  if (!box) {
    const plot = parentElement.querySelector('div[role=figure]');
    const full = {
      name: 'full', title: 'Full screen', icon: { width: 512, height: 512, path: LARGER },
      click: () => (document.fullscreenElement ? document.exitFullscreen() : plot.requestFullscreen()),
    };
    box = { plot, options: { displaylogo: false, modeBarButtonsToAdd: [full], modeBarButtonsToRemove: ['lasso2d'] } };
    boxes.set(parentElement, box);
  }
  if (!data.pick) box.options.modeBarButtonsToRemove = ['lasso2d', 'select2d'];
  box.plot.setAttribute('aria-label', data.alt);
  box.plot.style.minHeight = `${data.height}px`; // before it is drawn, nothing below it jumps
  Object.assign(box, { data, due: true, pick: (picked) => setStateValue('picked', picked) });
  draw(box);
  return () => {
    box.gone = true;
    window.Plotly?.purge(box.plot);
    boxes.delete(parentElement);
  };
}
