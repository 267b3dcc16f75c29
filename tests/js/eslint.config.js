// For the page's script, which test_page.py gives to eslint.
import js from "@eslint/js";
import globals from "globals";

export default [js.configs.recommended, { languageOptions: { sourceType: "script", globals: globals.browser } }];
