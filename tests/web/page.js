// What a person sees and does on the page, for the tests.

/** Waits until a run has ended and returns the status line that says so. */
export async function finished(page) {
  const status = page.locator("#status");
  await status.filter({ hasText: /network call|Cancelled/ }).waitFor({ timeout: 120_000 });
  return status.textContent();
}

/** Opens the page and waits for the picture that it makes by itself. */
export async function visit(page, address) {
  await page.goto(address);
  return finished(page);
}

/** Presses Generate and waits for the picture. */
export async function generate(page) {
  await page.getByRole("button", { name: "Generate" }).click();
  return finished(page);
}

/** The canvas's size and RGBA bytes. */
export async function pixels(page) {
  const { width, height, base64 } = await page.evaluate(() => {
    const { width, height } = document.querySelector("canvas");
    const { data } = document.querySelector("canvas").getContext("2d").getImageData(0, 0, width, height);
    let text = "";
    for (const byte of data) text += String.fromCharCode(byte);
    return { width, height, base64: btoa(text) };
  });
  return { width, height, data: Buffer.from(base64, "base64") };
}

/** The grey values of one 28 × 28 image of the picture, which is laid out in `columns` with one pixel between images. */
export function tile({ width, data }, index, columns, size = 28) {
  const values = [];
  const [left, top] = [(index % columns) * (size + 1), Math.floor(index / columns) * (size + 1)];
  for (let y = top; y < top + size; y++) {
    for (let x = left; x < left + size; x++) values.push(data[4 * (y * width + x)]);
  }
  return values;
}
