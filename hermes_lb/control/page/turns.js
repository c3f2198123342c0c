// The turns in the store. They are listed when asked for: that reads all of the store's keys.

import { get, send } from "./api.js";
import { confirm } from "./dialogs.js";
import { clock, count, duration, keyed, make, plural, setText } from "./format.js";

const MOST_ROWS = 100;
const CAN_BE_CANCELLED = new Set(["waiting", "running"]);

export class Turns {
  constructor(card) {
    const part = (name) => card.querySelector(`#turns${name}`);
    [this.card, this.about, this.rows, this.button] = [card, part("-about"), part(""), part("-list")];
    this.button.addEventListener("click", () => this.list());
  }

  /** Is there a route with turns? */
  show(frontends) {
    this.card.hidden = !frontends.some((frontend) => frontend.routes.some((route) => route.turns));
  }

  async list() {
    this.button.disabled = true;
    try {
      const { turns } = await get(`turns?limit=${MOST_ROWS}`);
      this.draw(turns, Date.now() / 1000);
    } catch (error) {
      setText(this.about, error.message);
    } finally {
      this.button.disabled = false;
    }
  }

  draw(turns, now) {
    const states = Map.groupBy(turns, (turn) => turn.state);
    const most = turns.length === MOST_ROWS ? "the newest " : "";
    const each = [...states].map(([state, those]) => `${count(those.length)} ${state}`).join(", ");
    setText(this.about, `${clock(now)}: ${most}${plural(turns.length, "turn")}${each && `, ${each}`}`);
    keyed(this.rows, turns.map((turn) => turn.id), (id) => this.row(id));
    turns.forEach((turn, n) => {
      const [name, side, details] = this.rows.children[n].children;
      const [state, button] = side.children;
      setText(name, turn.id);
      setText(state, turn.reason ? `${turn.state}: ${turn.reason}` : turn.state);
      button.hidden = !CAN_BE_CANCELLED.has(turn.state);
      const has = [turn.has_key && "key", turn.has_session && "session", turn.attempt > 1 && "repeated"];
      setText(details, [
        turn.server || "no server",
        `begun ${duration(now - turn.begun_at)} ago`,
        turn.ended_at && `ended ${duration(now - turn.ended_at)} ago`,
        ...has,
      ].filter(Boolean).join(" · "));
    });
  }

  row(id) {
    const button = make("button", { type: "button", "aria-label": `Cancel ${id}` }, "Cancel");
    button.addEventListener("click", async () => {
      const isDone = await confirm({
        title: "Cancel the turn?",
        text: `${id}\nIts request to the server is cut, and all of its clients' streams.`,
        action: "Cancel it",
        danger: true,
      }, () => send("DELETE", `turns/${id}`, {}));
      if (isDone) await this.list();
    });
    return make("li", {}, make("b", {}), make("span", { class: "side" }, make("span", {}), button),
      make("span", { class: "quiet" }));
  }
}
