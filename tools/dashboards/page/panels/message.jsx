/** The message of a panel without data, as in Grafana. */
export function Message({ text, width, height, theme, isError = false }) {
  return (
    <div
      style={{
        alignItems: 'center',
        color: isError ? theme.colors.error.text : theme.colors.text.secondary,
        display: 'flex',
        fontSize: isError ? 12 : theme.typography.size.lg,
        height,
        justifyContent: 'center',
        textAlign: 'center',
        width,
      }}
    >
      {text}
    </div>
  );
}
