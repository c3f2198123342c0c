// The two dialogs: a confirmation, with a number if one is wanted, and the sign-in.

import { token } from "./api.js";
import { setText } from "./format.js";

const by = (id) => document.getElementById(id);

/**
 * Asks, and then runs `act` (with the number, if `field` asks for one). It stays open until that has
 * worked, and shows why it has not. Returns what `act` did, or null if it was cancelled.
 */
export function confirm({ title, text, action, field, danger = false }, act) {
  const dialog = by("confirm");
  const [ok, input, problem] = [by("confirm-ok"), by("confirm-input"), by("confirm-problem")];
  setText(by("confirm-title"), title);
  setText(by("confirm-text"), text);
  setText(ok, action);
  ok.classList.toggle("danger", danger);
  ok.disabled = false;
  problem.hidden = true;
  by("confirm-field").hidden = !field;
  input.required = Boolean(field);
  if (field) {
    setText(by("confirm-label"), field.label);
    input.value = field.value;
  }
  const form = dialog.querySelector("form");
  return new Promise((resolve) => {
    let done = null;
    form.onsubmit = async (event) => {
      if (event.submitter?.value === "cancel") return;
      event.preventDefault();
      ok.disabled = true;
      try {
        done = await act(field ? input.valueAsNumber : undefined);
        dialog.close();
      } catch (error) {
        setText(problem, [error.message, ...(error.problems ?? [])].join("\n"));
        problem.hidden = false;
      } finally {
        ok.disabled = false;
      }
    };
    dialog.onclose = () => resolve(done);
    dialog.showModal();
    (field ? input : ok).focus();
    if (field) input.select();
  });
}

/** Asks for the token, again and again until `works` does not throw a 401. */
export function signIn(works) {
  const dialog = by("login");
  const [input, problem] = [by("token"), by("login-problem")];
  return new Promise((resolve) => {
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      token.set(input.value.trim());
      try {
        await works();
        input.value = "";
        problem.hidden = true;
        dialog.close();
        resolve();
      } catch (error) {
        if (error.status === 401) token.forget();
        setText(problem, error.status === 401 ? "This is not the token." : error.message);
        problem.hidden = false;
        input.select();
      }
    };
    dialog.oncancel = (event) => event.preventDefault(); // there is nothing behind it
    if (!dialog.open) dialog.showModal();
  });
}
