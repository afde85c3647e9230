// What pages, workers and programs under test have besides what TypeScript knows.

interface Performance {
  measureUserAgentSpecificMemory(): Promise<{ bytes: number }>;
}

interface Window {
  [name: string]: any;
}
