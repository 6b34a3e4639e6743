#!/usr/bin/env node
// Draw dashboards as pictures with Grafana's own components: `node draw.mjs --help`.

import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bundle, chromium, draw } from './renderer/browser.mjs';
import { place, visible } from './renderer/grid.mjs';
import { Prometheus, askPanel, intervals, rangeOf } from './renderer/queries.mjs';
import { interpolate, resolve } from './renderer/variables.mjs';

const HELP = `usage: node draw.mjs [options] DASHBOARD.json ...

Draw each dashboard from a live Prometheus, as NAME.png.

  --prometheus URL       the server (default: http://127.0.0.1:9090)
  --from TIME            now-1h, 2026-01-31T12:00:00Z or milliseconds (default: the dashboard's)
  --to TIME              as above
  --now TIME             what "now" stands for, an ISO time or seconds (default: now)
  --var NAME=VALUE       a variable's value; again for more of them; All for all
  --scrape-interval TIME the data source's, the least step (default: 15s)
  --time-zone ZONE       such as Europe/Berlin (default: utc)
  --theme dark|light     (default: dark)
  --width PIXELS         the page's (default: 1600)
  --scale FACTOR         pixels of the picture for one of the page's (default: 1)
  --suffix TEXT          put after each picture's name, before .png
  --out FOLDER           where the pictures go (default: .)

Exit code 0; 1 where a query was refused or a panel could not be drawn, 2 for arguments that cannot
be used. The pictures are written all the same.
`;
const MARGIN = 16;
const PADDING = 16;
const MOST_ABOVE = 400;

function settings() {
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
    throw new Error(`--theme ${values.theme}: give dark or light`);
  }
  for (const name of ['scale', 'width']) {
    if (!(Number(values[name]) > 0)) {
      throw new Error(`--${name} ${values[name]}: give a number above 0`);
    }
  }
  const given = new Map();
  for (const pair of values.var) {
    const [, name, value] = /^(\w+)=(.*)$/s.exec(pair) ?? [];
    if (name === undefined) {
      throw new Error(`--var ${pair}: give NAME=VALUE`);
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

/** Give a time in milliseconds since 1970. */
function momentOf(text) {
  const moment = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text);
  if (Number.isNaN(moment)) {
    throw new Error(`--now ${text}: give a time such as 2026-01-31T12:00:00Z, or Unix seconds`);
  }
  return moment;
}

/** Ask all that a dashboard asks, and give what page/main.jsx draws. */
async function dataOf(dashboard, asked) {
  const prometheus = new Prometheus(asked.prometheus);
  const range = rangeOf(
    asked.from ?? dashboard.time?.from ?? 'now-1h',
    asked.to ?? dashboard.time?.to ?? 'now',
    asked.now
  );
  const scope = await resolve(dashboard, asked.given, prometheus);
  const words = (text, panel, width) =>
    text &&
    interpolate(
      text,
      new Map([...scope, ...intervals({}, panel, range, width, asked['scrape-interval']).scope]),
      'text'
    );
  const answers = {};
  const panels = [];
  for (const panel of visible(dashboard.panels ?? [])) {
    const width = place(panel.gridPos, asked.width - 2 * MARGIN).width - PADDING;
    answers[panel.id] = await askPanel(panel, {
      prometheus,
      scope,
      range,
      width,
      scrapeInterval: asked['scrape-interval'],
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
    answers,
    panels,
    range,
    variables,
    theme: asked.theme,
    timeZone: asked['time-zone'],
    width: asked.width,
  };
}

/** Give the most that the page can be high: the panels, and what stands above them. */
function heightOf(panels, width) {
  const ends = panels
    .map(({ gridPos }) => place(gridPos, width))
    .map(({ top, height }) => top + height);
  return Math.max(0, ...ends) + MOST_ABOVE;
}

async function main() {
  let asked;
  try {
    asked = settings();
    chromium();
  } catch (error) {
    console.error(error.message);
    return 2;
  }
  if (asked === undefined) {
    console.log(HELP);
    return 0;
  }
  mkdirSync(asked.out, { recursive: true });
  const page = await bundle();
  let hasFailed = false;
  for (const file of asked.files) {
    let data;
    try {
      data = await dataOf(JSON.parse(readFileSync(file, 'utf8')), asked);
    } catch (error) {
      console.error(`${file}: ${error.message}`);
      return 2;
    }
    const picture = path.join(asked.out, `${path.basename(file, '.json')}${asked.suffix}.png`);
    const complaints = await draw(page, data, {
      width: asked.width,
      height: heightOf(data.panels, asked.width),
      scale: asked.scale,
      file: picture,
    });
    for (const panel of data.panels) {
      for (const { refId, error, expression } of data.answers[panel.id].filter(
        (answer) => answer.error
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
