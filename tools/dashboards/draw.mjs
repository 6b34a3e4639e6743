#!/usr/bin/env node
// Draw dashboards as pictures with Grafana's own components: `node draw.mjs --help`.

import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bundle, chromium, draw } from './renderer/browser.mjs';
import { place, visible } from './renderer/grid.mjs';
import { Prometheus, queryPanel, intervals, rangeOf } from './renderer/queries.mjs';
import { interpolate, resolve } from './renderer/variables.mjs';

const HELP = `usage: node draw.mjs [options] DASHBOARD.json ...

Draw each dashboard from a live Prometheus, as NAME.png.

  --prometheus URL       the server (default: http://127.0.0.1:9090)
  --from TIME            now-1h, 2026-01-31T12:00:00Z or milliseconds (default: the dashboard's)
  --to TIME              as above
  --now TIME             what "now" stands for, an ISO time or seconds (default: now)
  --var NAME=VALUE       a value of a variable, repeatable; All for all values
  --scrape-interval TIME minimum step, as in the data source (default: 15s)
  --time-zone ZONE       such as Europe/Berlin (default: utc)
  --theme dark|light     (default: dark)
  --width PIXELS         width of the page (default: 1600)
  --scale FACTOR         scale of the picture (default: 1)
  --suffix TEXT          suffix of each file name, before .png
  --out FOLDER           folder for the pictures (default: .)

Exit code: 0; 1 if a query failed or a panel could not be drawn, 2 if an argument is invalid. In case
of 1 the pictures are written too.
`;
const MARGIN = 16;
const PADDING = 16;
const MAX_HEADER = 400;

function parseOptions() {
  const text = (fallback) => ({ type: 'string', default: fallback });
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      from: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
      now: { type: 'string' },
      out: text('.'),
      prometheus: text('http://127.0.0.1:9090'),
      scale: text('1'),
      'scrape-interval': text('15s'),
      suffix: text(''),
      theme: text('dark'),
      'time-zone': text('utc'),
      to: { type: 'string' },
      var: { type: 'string', multiple: true, default: [] },
      width: text('1600'),
    },
  });
  if (values.help) {
    return undefined;
  }
  if (positionals.length === 0) {
    throw new Error('no dashboard given: node draw.mjs DASHBOARD.json ...');
  }
  if (!['dark', 'light'].includes(values.theme)) {
    throw new Error(`--theme must be dark or light, got ${values.theme}`);
  }
  for (const name of ['scale', 'width']) {
    if (!(Number(values[name]) > 0)) {
      throw new Error(`--${name} must be a number above 0, got ${values[name]}`);
    }
  }
  const given = new Map();
  for (const pair of values.var) {
    const [, name, value] = /^(\w+)=(.*)$/s.exec(pair) ?? [];
    if (name === undefined) {
      throw new Error(`--var must be NAME=VALUE, got ${pair}`);
    }
    given.set(name, [...(given.get(name) ?? []), value]);
  }
  return {
    ...values,
    now: values.now === undefined ? Date.now() : momentOf(values.now),
    files: positionals,
    given,
    width: Number(values.width),
    scale: Number(values.scale),
  };
}

/** Parse a time to milliseconds since 1970. */
function momentOf(text) {
  const moment = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text);
  if (Number.isNaN(moment)) {
    throw new Error(
      `--now must be a time such as 2026-01-31T12:00:00Z, or Unix seconds, got ${text}`
    );
  }
  return moment;
}

/** Run the queries of a dashboard; return the data for page/main.jsx. */
async function dataOf(dashboard, options) {
  const prometheus = new Prometheus(options.prometheus);
  const range = rangeOf(
    options.from ?? dashboard.time?.from ?? 'now-1h',
    options.to ?? dashboard.time?.to ?? 'now',
    options.now
  );
  const scope = await resolve(dashboard, options.given, prometheus);
  const words = (text, panel, width) =>
    text &&
    interpolate(
      text,
      new Map([...scope, ...intervals({}, panel, range, width, options['scrape-interval']).scope]),
      'text'
    );
  const responses = {};
  const panels = [];
  for (const panel of visible(dashboard.panels ?? [])) {
    const width = place(panel.gridPos, options.width - 2 * MARGIN).width - PADDING;
    responses[panel.id] = await queryPanel(panel, {
      prometheus,
      scope,
      range,
      width,
      scrapeInterval: options['scrape-interval'],
    });
    panels.push({
      ...panel,
      title: words(panel.title, panel, width),
      description: words(panel.description, panel, width),
    });
  }
  const variables = [...scope]
    .filter(([, { hide }]) => hide !== 2)
    .map(([name, { label }]) => ({ name, label, text: interpolate(`\${${name}}`, scope, 'text') }));
  const { title, links } = dashboard;
  return {
    dashboard: { title, links },
    responses,
    panels,
    range,
    variables,
    theme: options.theme,
    timeZone: options['time-zone'],
    width: options.width,
  };
}

/** Return the maximum height of the page. */
function heightOf(panels, width) {
  const ends = panels
    .map(({ gridPos }) => place(gridPos, width))
    .map(({ top, height }) => top + height);
  return Math.max(0, ...ends) + MAX_HEADER;
}

async function main() {
  let options;
  try {
    options = parseOptions();
    if (options !== undefined) {
      chromium();
    }
  } catch (error) {
    console.error(error.message);
    return 2;
  }
  if (options === undefined) {
    console.log(HELP);
    return 0;
  }
  mkdirSync(options.out, { recursive: true });
  const page = await bundle();
  let hasFailed = false;
  for (const file of options.files) {
    let data;
    try {
      data = await dataOf(JSON.parse(readFileSync(file, 'utf8')), options);
    } catch (error) {
      console.error(`${file}: ${error.message}`);
      return 2;
    }
    const picture = path.join(options.out, `${path.basename(file, '.json')}${options.suffix}.png`);
    const complaints = await draw(page, data, {
      width: options.width,
      height: heightOf(data.panels, options.width),
      scale: options.scale,
      file: picture,
    });
    for (const panel of data.panels) {
      for (const { refId, error, expression } of data.responses[panel.id].filter(
        (response) => response.error
      )) {
        complaints.push(
          `panel ${panel.id} "${panel.title}", query ${refId}: ${error}\n    ${expression}`
        );
      }
    }
    complaints.forEach((complaint) => console.error(`${file}: ${complaint}`));
    hasFailed ||= complaints.length > 0;
    console.log(picture);
  }
  return hasFailed ? 1 : 0;
}

process.exitCode = await main();
