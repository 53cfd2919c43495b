// The picture that draw() returns, as a data URL, once it is no longer the empty first one and has stayed the same for a
// second: Gaussians are sorted in the background. After a minute, whatever there is.
export async function settled(draw, first = null) {
  const end = performance.now() + 60_000;
  first ??= await draw();
  let last = first;
  let since = performance.now();
  while (performance.now() < end) {
    await new Promise((done) => setTimeout(done, 50));
    const now = await draw();
    if (now !== last) since = performance.now();
    last = now;
    if (last !== first && performance.now() > since + 1000) break;
  }
  return last;
}
