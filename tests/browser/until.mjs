// Waits for a condition, not for luck: asks again and again until it is true, for a minute at most.
export async function until(what, condition, { within = 60_000, every = 25 } = {}) {
  const end = Date.now() + within;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}
