// Bundles the page, opens it in a browser and takes a screenshot.

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { build } from 'esbuild';
import { launch } from 'puppeteer-core';

const HERE = path.dirname(import.meta.dirname);
// No server listens there: requests are served from the disk, others are blocked.
const ORIGIN = 'http://dashboards.invalid';
const ICONS = path.join(HERE, 'node_modules/@grafana/ui/dist/public/');
// The fonts of Grafana's style, by the beginning of their names.
const FONTS = {
  '/public/fonts/inter/Inter-Regular': 'inter/files/inter-latin-400-normal.woff2',
  '/public/fonts/inter/Inter-Italic': 'inter/files/inter-latin-400-italic.woff2',
  '/public/fonts/inter/Inter-Medium': 'inter/files/inter-latin-500-normal.woff2',
  '/public/fonts/roboto/': 'roboto-mono/files/roboto-mono-latin-400-normal.woff2',
};
const MOST_SECONDS = 60;
const TYPES = {
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
};

/** Return the browser's path; throws an error with the remedy if there is none. */
export function chromium() {
  const found = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser'].find(
    (name) => name && existsSync(name)
  );
  if (found === undefined) {
    throw new Error(
      'no Chromium: install it with `apt-get install chromium`, or name one in the variable CHROMIUM'
    );
  }
  return found;
}

/** Bundle the page; return its script and style sheet as text. */
export async function bundle() {
  const { outputFiles } = await build({
    absWorkingDir: HERE,
    entryPoints: { page: 'page/main.jsx' },
    bundle: true,
    write: false,
    outdir: '/bundle',
    format: 'esm',
    jsx: 'automatic',
    logLevel: 'error',
    define: { 'process.env.NODE_ENV': '"production"', global: 'globalThis' },
    loader: { '.svg': 'dataurl', '.ttf': 'empty' },
  });
  const named = (ending) => outputFiles.find((file) => file.path.endsWith(ending)).text;
  return { script: named('.js'), style: named('.css') };
}

/**
 * Draw one dashboard.
 *
 * @param {object} page The result of `bundle`.
 * @param {object} data The data of the page, see page/main.jsx.
 * @param {{width: number, height: number, scale: number, file: string}} picture The file, and the
 *   width and maximum height of the page in pixels.
 * @returns {Promise<string[]>} Errors of the page.
 */
export async function draw({ script, style }, data, { width, height, scale, file }) {
  const browser = await launch({
    executablePath: chromium(),
    // Chromium's sandbox does not work for root, as in most containers.
    args: [
      '--disable-gpu',
      '--force-color-profile=srgb',
      ...(process.getuid() === 0 ? ['--no-sandbox'] : []),
    ],
  });
  try {
    const page = await browser.newPage();
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    // The window is as high as the page, since tables draw only visible rows.
    await page.setViewport({ width, height, deviceScaleFactor: scale });
    await page.setRequestInterception(true);
    const pages = {
      '/': ['text/html', html(data)],
      '/page.js': [TYPES['.js'], script],
      '/page.css': [TYPES['.css'], style],
    };
    page.on('request', (request) => answer(request, pages));
    await page.goto(`${ORIGIN}/`);
    await page.waitForFunction('window.isDrawn === true', { timeout: MOST_SECONDS * 1000 });
    const drawn = await page.evaluate(() => document.getElementById('root').offsetHeight);
    await page.screenshot({
      path: file,
      clip: { x: 0, y: 0, width, height: Math.min(height, drawn) },
    });
    return complaints;
  } finally {
    await browser.close();
  }
}

function html(data) {
  const json = JSON.stringify(data).replaceAll('<', '\\u003c');
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,"><style>body { margin: 0; }</style>
<link rel="stylesheet" href="/page.css">
<script>window.__grafana_public_path__ = '${ORIGIN}/public/'; window.data = ${json};</script></head>
<body><div id="root"></div><script type="module" src="/page.js"></script></body></html>`;
}

async function answer(request, pages) {
  const { pathname, protocol } = new URL(request.url());
  if (protocol === 'data:') {
    await request.continue();
    return;
  }
  if (pathname in pages) {
    const [contentType, body] = pages[pathname];
    await request.respond({ contentType, body });
    return;
  }
  const font = Object.keys(FONTS).find((beginning) => pathname.startsWith(beginning));
  const wanted =
    font === undefined
      ? path.join(ICONS, pathname.replace(/^\/public\/build\//, ''))
      : path.join(HERE, 'node_modules/@fontsource', FONTS[font]);
  try {
    await request.respond({
      contentType: TYPES[path.extname(wanted)],
      body: await readFile(wanted),
    });
  } catch {
    await request.respond({ status: 404, body: '' });
  }
}
