// A plotly figure that plotly itself redraws in place, in the colours and letters of the app's theme; below it its words
// and downloads, which take no message from the server.
const boxes = new WeakMap();
const pen = document.createElement('canvas').getContext('2d'); // knows every way to write a colour
const LARGER = 'M32 32h160v64H96v96H32V32z m288 0h160v160h-64V96h-96V32z M32 320h64v96h96v64H32V320z m384 0h64v160H320v-64h96v-96z';
let loading = null;

// Beside the app's own script, wherever a proxy has put that.
function placed(path) {
  return new URL(`../../${path}`, document.querySelector('script[src*="static/js/"]').src);
}

async function load(path) {
  const url = placed(path), answer = await fetched(url);
  const script = document.createElement('script');
  script.src = URL.createObjectURL(await answer.blob());
  await new Promise((done, failed) => {
    Object.assign(script, { onload: done, onerror: () => failed(new Error(`${url} cannot be read`)) });
    document.head.append(script);
  });
  URL.revokeObjectURL(script.src);
  return window.Plotly;
}

function plotly(path) {
  loading ??= load(path).catch((error) => {
    loading = null;
    throw new Error(`Its script did not come: ${error.message}. Is the app still being served?`);
  });
  return loading;
}

function theme(element) {
  const style = getComputedStyle(element), value = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const parts = (color) => {
    pen.fillStyle = color; // reads back as #rrggbb
    return [1, 3, 5].map((i) => parseInt(pen.fillStyle.slice(i, i + 2), 16));
  };
  const faded = (color, share) => `rgba(${parts(color)}, ${share})`;
  const text = value('text-color'), ground = value('background-color'), soft = faded(text, 0.66), line = faded(text, 0.12);
  const axis = {
    color: soft, gridcolor: line, zerolinecolor: line, tickcolor: line, minor: { gridcolor: line }, automargin: true,
    ticklabeloverflow: 'allow', // there is room: plotly need not measure every label
    title: { font: { size: 14 } },
  };
  // Walls, not lines: without a graphics card the lines of three axes take as long to draw as all points. Opaque ones:
  // 3-D views take no notice of how a wall's colour is faded.
  const [front, back] = [parts(text), parts(ground)];
  const wall = (share) => ({
    color: soft, title: { font: { color: soft } }, showgrid: false, zeroline: false, showbackground: true,
    backgroundcolor: `rgb(${back.map((part, i) => Math.round(part + share * (front[i] - part)))})`,
  });
  return { layout: {
    font: { family: value('font'), color: soft, size: 12 },
    title: {
      font: { family: value('heading-font'), color: value('heading-color'), size: 16, weight: 600 },
      x: 0, xanchor: 'left', pad: { l: 4 },
    },
    paper_bgcolor: ground, plot_bgcolor: ground,
    xaxis: { ...axis, showgrid: false, zeroline: false, title: { standoff: 20, ...axis.title } },
    yaxis: { ...axis, title: { standoff: 24, ...axis.title } },
    scene: { xaxis: wall(0.04), yaxis: wall(0.06), zaxis: wall(0.09) },
    margin: { pad: 8 },
    hoverlabel: { bgcolor: ground, bordercolor: value('border-color'), font: { color: text } },
  }, data: { heatmap: [{ colorbar: { outlinewidth: 0 } }] } };
}

function fit({ plot, height }) {
  const full = document.fullscreenElement === plot;
  return { width: plot.clientWidth || undefined, height: full ? window.innerHeight : height };
}

async function show(box) {
  const Plotly = window.Plotly ?? (await plotly(box.data.plotly)); // at once if it can be: printing does not wait
  if (box.gone) return;
  const { data, layout } = JSON.parse(box.data.figure);
  if (box.failed) box.plot.textContent = '';
  box.failed = false;
  box.height = layout.height;
  box.options ??= options(box.plot, layout.dragmode === 'select');
  // What a person zoomed, turned or hid stays so while the figure is of the same thing.
  Object.assign(layout, { template: theme(box.plot), uirevision: layout.uirevision ?? box.data.of }, fit(box));
  await Plotly.react(box.plot, data, layout, box.options);
  if (!box.listening) listen(box);
}

async function draw(box, always = false) {
  // Only the newest figure counts: whatever came in between while one was being drawn is left out. The first is always
  // drawn; a later one that nobody can see waits until it is scrolled to or printed.
  if (box.drawing) return;
  box.drawing = true;
  while (box.due && !box.gone && (always || box.seen || !box.options)) {
    box.due = false;
    try {
      await show(box);
    } catch (error) {
      if (box.gone) break;
      window.Plotly?.purge(box.plot);
      Object.assign(box, { failed: true, listening: false });
      box.plot.textContent = `The figure could not be drawn. ${error.message}`;
    }
  }
  box.drawing = false;
}

function describe(box, { words, alt }) {
  const [told, seen] = box.below.querySelectorAll('details > div > *');
  box.below.hidden = !words;
  if (box.words !== words) told.innerHTML = words; // made from the app's own Markdown, with all HTML in it escaped
  box.words = words;
  seen.textContent = `${alt}.`;
}

async function download({ data, plot }, button) {
  const figure = JSON.parse(data.figure), kind = button.value, name = `${data.name}.${kind}`;
  try {
    if (kind === 'json') save(name, data.figure, 'application/json');
    else if (kind === 'csv') save(name, csv(figure), 'text/csv');
    else save(name, await page(figure, data, theme(plot), placed(data.plotly)), 'text/html');
  } catch (error) {
    button.title = `It could not be made: ${error.message}. Is the app still being served?`;
    button.textContent = `${button.textContent.replace(' ✗', '')} ✗`;
  }
}

function options(plot, select) {
  const full = {
    name: 'full', title: 'Full screen', icon: { width: 512, height: 512, path: LARGER },
    click: () => (document.fullscreenElement ? document.exitFullscreen() : plot.requestFullscreen()),
  };
  return {
    displaylogo: false,
    showSendToCloud: false, // nothing leaves this machine
    doubleClickDelay: 250, // two quick clicks on two squares are two clicks
    plotGlPixelRatio: Math.min(2, Math.max(1, window.devicePixelRatio)), // not always 2: four times the work
    modeBarButtonsToAdd: document.fullscreenEnabled ? [full] : [],
    modeBarButtonsToRemove: select ? ['lasso2d'] : ['lasso2d', 'select2d'],
  };
}

function listen(box) {
  box.listening = true;
  const pick = (points) => { // by a person: drawing a figure can change what is selected, too
    const picked = points.map((point) => [point.customdata].flat()[0]).filter(Number.isInteger);
    if (box.data.pick && !box.drawing) box.pick({ points: picked.slice(0, 4096), at: Date.now() });
  };
  // Where a click selects, it says so as a box does.
  box.plot.on('plotly_click', (event) => box.plot.layout.clickmode?.includes('select') || pick(event.points));
  box.plot.on('plotly_selected', (event) => event && pick(event.points));
  box.plot.on('plotly_deselect', () => pick([]));
}

function mount(parent) {
  const plot = parent.querySelector('div[role=figure]'), below = parent.querySelector('.rcpu-below');
  const box = { plot, below, seen: true };
  for (const button of below.querySelectorAll('button')) button.addEventListener('click', () => download(box, button));
  box.watcher = new IntersectionObserver((seen) => {
    box.seen = seen.at(-1).isIntersecting;
    draw(box);
  });
  box.watcher.observe(plot);
  box.printed = () => draw(box, true);
  window.addEventListener('beforeprint', box.printed);
  box.observer = new ResizeObserver(() => {
    const { width, height } = fit(box), now = plot.layout;
    if (now && width && (width !== now.width || height !== now.height)) window.Plotly.relayout(plot, { width, height });
  });
  box.observer.observe(plot);
  return box;
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  let box = boxes.get(parentElement);
  if (!box) {
    box = mount(parentElement);
    boxes.set(parentElement, box);
  }
  box.plot.setAttribute('aria-label', data.alt);
  describe(box, data);
  box.plot.style.minHeight = `${data.height}px`; // before it is drawn, nothing below it jumps
  Object.assign(box, { data, due: true, pick: (picked) => setStateValue('picked', picked) });
  draw(box);
  return () => {
    if (parentElement.isConnected) return; // an update that a newer one has overtaken
    box.gone = true;
    box.observer.disconnect();
    box.watcher.disconnect();
    window.removeEventListener('beforeprint', box.printed);
    window.Plotly?.purge(box.plot);
    boxes.delete(parentElement);
  };
}
