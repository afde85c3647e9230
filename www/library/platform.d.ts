// What the browsers have and TypeScript's declarations for pages do not, as far as it is used here.

interface Navigator {
  readonly gpu?: {
    requestAdapter(): Promise<{
      info: { vendor: string; architecture: string; description: string };
      limits: { maxBufferSize: number; maxStorageBufferBindingSize: number };
    } | null>;
  };
}

/** In workers alone. */
interface FileSystemFileHandle {
  createSyncAccessHandle(): Promise<FileSystemSyncAccessHandle>;
}

interface FileSystemSyncAccessHandle {
  write(bytes: Uint8Array, options: { at: number }): number;
  getSize(): number;
  truncate(size: number): void;
  close(): void;
}

/** In Chromium alone. */
interface Window {
  showDirectoryPicker(options: { id: string; mode: "readwrite" }): Promise<FileSystemDirectoryHandle>;
}

/** Trusted Types, by which a page's policy limits what may become a script's address. */
interface TrustedScriptPolicy {
  createScriptURL(address: string): string;
}

declare var trustedTypes:
  | undefined
  | { createPolicy(name: string, rules: { createScriptURL(address: string): string }): TrustedScriptPolicy };
