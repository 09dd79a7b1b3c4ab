// JSON whose whole numbers stay exact. A task id has 19 digits and JSON.parse keeps about 16 of them.

const STRING_OR_NUMBER = /"[^"\\]*(?:\\[^][^"\\]*)*"|-?\d[\d.eE+-]*/g;

/**
 * Parses JSON. A whole number that a JavaScript number cannot hold exactly becomes a string of its digits.
 *
 * @throws SyntaxError if the text is not JSON.
 */
// deno-lint-ignore no-explicit-any
export function parse(text: string): any {
  return JSON.parse(text.replace(STRING_OR_NUMBER, (token) => isInexact(token) ? `"${token}"` : token));
}

function isInexact(token: string): boolean {
  return /^-?[1-9]\d{15,}$/.test(token) && !Number.isSafeInteger(Number(token));
}
