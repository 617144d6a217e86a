/** Parts of a whole as one bar and its legend with numbers. */
export function Shares({ parts }: { parts: { label: string; count: number; tone: string }[] }) {
  const total = parts.reduce((sum, { count }) => sum + count, 0);
  return (
    <div className="shares">
      <div className="shares-bar" aria-hidden>
        {total > 0 &&
          parts
            .filter(({ count }) => count > 0)
            .map(({ label, count, tone }) => (
              <span key={label} className={`share share-${tone}`} style={{ flexGrow: count }} />
            ))}
      </div>
      <ul>
        {parts.map(({ label, count, tone }) => (
          <li key={label}>
            <span className={`share-key share-${tone}`} aria-hidden />
            {label}
            <strong>{count}</strong>
          </li>
        ))}
      </ul>
    </div>
  );
}
