import { renderTextPanelMarkdown } from '@grafana/data';

/** Grafana's text panel, with sanitized Markdown. */
export function TextPanel({ panel, height }) {
  const { content, mode } = panel.options;
  const html = mode === 'markdown' ? renderTextPanelMarkdown(content) : content;
  return (
    <div
      className="markdown-html"
      style={{ height, overflow: 'hidden', padding: '0 8px' }}
      dangerouslySetInnerHTML={{ __html: html }}
    />
  );
}
