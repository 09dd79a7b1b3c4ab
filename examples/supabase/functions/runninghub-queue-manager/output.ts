// The output of a job: which file the row shows, and what the run cost.

export type Output = Record<string, unknown> | null | undefined;

const KINDS = [/^(video|mp4|webm|mov|avi|m4v|mkv)/i, /^(image|png|jpe?g|webp|gif|avif|bmp)/i]; // the best first
const URLS = ["url", "fileUrl"];
const COST_MAX = 2_147_483_647; // of the column
const TYPES = ["type", "outputType", "fileType"];

/** The address that the row shows: a video, else an image, else the first file. Null where there is none. */
export function urlOf(output: Output): string | null {
  const files = listed(output?.files ?? output?.results).map((file) => ({ url: text(file, URLS), kind: text(file, TYPES) }));
  const found = files.filter((file) => file.url !== "");
  for (const kind of KINDS) {
    const best = found.find((file) => kind.test(file.kind)) ?? found.find((file) => kind.test(extension(file.url)));
    if (best) return best.url;
  }
  return found[0]?.url ?? (text(output, URLS) || null);
}

/** Coins of the run, in whole ones: the column of the first tables is an integer. Null where the provider named none. */
export function costOf(output: Output): number | null {
  const usage = output?.usage as Output;
  const parts = listed(output?.taskUsageList).map((one) => number((one.usage as Output)?.consumeCoins));
  const each = listed(output?.files ?? output?.results).map((file) => number(file.consumeCoins));
  const named = [number(usage?.consumeCoins), number(output?.coins), number(output?.consumeCoins), sum(parts), sum(each)];
  const cost = [...named, number(output?.rhCost)].find((one) => one !== null);
  return cost === undefined || cost === null ? null : Math.min(Math.max(Math.round(cost), 0), COST_MAX);
}

function listed(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.map((one) => typeof one === "string" ? { url: one } : one ?? {}) : [];
}

function text(value: Output, names: string[]): string {
  return String(names.map((name) => value?.[name]).find((one) => typeof one === "string" && one !== "") ?? "");
}

function extension(url: string): string {
  return url.split(/[?#]/)[0].split("/").pop()?.split(".").slice(1).pop() ?? "";
}

function number(value: unknown): number | null {
  const found = typeof value === "string" && value.trim() ? Number(value) : value;
  return typeof found === "number" && Number.isFinite(found) ? found : null;
}

function sum(values: (number | null)[]): number | null {
  const known = values.filter((one) => one !== null);
  return known.length ? known.reduce((all, one) => all + one, 0) : null;
}
