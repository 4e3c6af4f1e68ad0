// What a person does with a page.

/** Waits until the run that is shown stands so. */
export const status = (page, word) => page.locator("main header [data-status]", { hasText: word }).waitFor();
export const button = (page, name) => page.getByRole("button", { name, exact: true });

/** Opens the dialog of an act, from its button or from the menu. */
export async function begin(page, name) {
  await button(page, name).or(button(page, "More")).first().waitFor();
  if (await button(page, name).count() === 0) {
    await button(page, "More").click();
    await page.getByRole("menuitem", { name }).click();
  } else await button(page, name).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  return dialog;
}

/** Types JSON into the editor. */
export async function type(page, label, text) {
  const field = page.locator(`.json-editor [aria-label="${label}"]`);
  await field.click();
  await page.keyboard.press("Control+a");
  await page.keyboard.insertText(text);
}
