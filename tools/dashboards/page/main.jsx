// The page: one dashboard, drawn once from `window.data`, which renderer/browser.mjs sets.
//
// `window.data` has the `dashboard`, the `responses` by panel id, the `range` in milliseconds and in
// its original form (`raw`), the `variables` as `{name, label, text}`, the `texts` (titles etc. with
// variables replaced), the `theme`, the `timeZone` and the `width`. `window.isDrawn` becomes true at
// the end.

import 'uplot/dist/uPlot.min.css';
import { createTheme, dateTime } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, PortalContainer, ThemeContext } from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import { Dashboard } from './dashboard.jsx';
import { toFrames } from './frames.js';
import { completed, known, prepared } from './settings.js';

const { dashboard, responses, range, panels, theme: mode, timeZone, width } = window.data;

const QUIET_MS = 1500;

async function panelsOf(theme) {
  const replaceVariables = (text) => text;
  const drawn = [];
  for (const raw of panels) {
    if (!known(raw.type)) {
      drawn.push({ panel: raw, frames: [], errors: [] });
      continue;
    }
    const panel = completed(raw);
    const given = responses[panel.id] ?? [];
    const frames = await prepared(panel, toFrames(given), { theme, timeZone, replaceVariables });
    drawn.push({ panel, frames, errors: given.filter(({ error }) => error) });
  }
  return drawn;
}

/** Wait until the page is stable: panels measure themselves, then draw again. */
async function quiet() {
  let changed = performance.now();
  const observer = new MutationObserver(() => {
    changed = performance.now();
  });
  observer.observe(document.body, { attributes: true, childList: true, subtree: true });
  while (performance.now() - changed < QUIET_MS) {
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 50)));
  }
  observer.disconnect();
}

async function main() {
  await initPluginTranslations('dashboards', []);
  const theme = createTheme({ colors: { mode } });
  const from = dateTime(range.from);
  const to = dateTime(range.to);
  const timeRange = { from, to, raw: range.raw };
  const drawn = await panelsOf(theme);
  createRoot(document.getElementById('root')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Dashboard
        {...{
          dashboard,
          drawn,
          timeRange,
          timeZone,
          theme,
          width,
          variables: window.data.variables,
        }}
      />
      <PortalContainer />
    </ThemeContext.Provider>
  );
  await document.fonts.ready;
  await quiet();
  window.isDrawn = true;
}

main().catch((error) => {
  console.error(error.stack);
  window.isDrawn = true;
});
