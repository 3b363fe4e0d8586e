// Logging in and out. The token stays in this tab: never in a cookie, a URL or localStorage.

import { $, announce } from "./page.js";
import { keep, kept } from "./kept.js";
import { problemBox } from "./problem.js";

export class Account {
  /** `onChange(user)`: somebody has logged in, or with null, out. */
  constructor(api, { onChange }) {
    this.api = api;
    this.onChange = onChange;
    this.user = null;
    api.onTokenRefused = () => this.#refused();
    $("login-form").addEventListener("submit", (submit) => {
      submit.preventDefault();
      this.#logIn(submit.target);
    });
    $("log-out").addEventListener("click", () => this.#logOut());
  }

  /** After a reload; false if somebody has to log in first. */
  resume() {
    const known = kept("login");
    if (!known) return false;
    this.#enter(known.user, known.token);
    return true;
  }

  /** Show the form, with the reason for it if there is one. */
  ask(reason = "") {
    this.#show({ login: true });
    $("login-reason").hidden = !reason;
    $("login-reason").textContent = reason;
    $("username").focus();
    if (reason) announce(reason);
  }

  async #logIn(form) {
    const place = $("login-problem");
    place.replaceChildren();
    const user = form.elements.username.value;
    try {
      const { access_token } = await this.api.login(form);
      form.reset();
      this.#enter(user, access_token);
      this.onChange(user);
      $("query").focus();
      announce(`Logged in as ${user}.`);
    } catch (refusal) {
      place.replaceChildren(problemBox(refusal));
      form.elements.password.select();
      form.elements.password.focus();
    }
  }

  async #logOut() {
    try {
      await this.api.logout();
    } catch {
      // the token is given up here either way
    }
    this.#leave();
    keep("farewell", "You have logged out.");
    this.onChange(null);
  }

  #enter(user, token) {
    this.user = user;
    this.api.token = token;
    keep("login", { user, token });
    $("user").textContent = user;
    this.#show({ login: false });
  }

  #show({ login }) {
    $("login").hidden = !login;
    for (const id of ["account", "sessions", "talk"]) $(id).hidden = login;
  }

  #leave() {
    this.api.token = null;
    keep("login", null);
  }

  #refused() {
    const ended = this.api.token !== null;
    this.#leave();
    this.ask(ended ? "Your login has ended. Log in again to go on." : "");
  }
}
