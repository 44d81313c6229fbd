// The applications. Filled in when their endpoints are known.

export const APPLICATIONS = [];

export function applicationPanel() {
  return [];
}
