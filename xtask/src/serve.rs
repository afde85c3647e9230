//! A local server for the assembled site.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{HeaderValue, header};
use tokio::net::TcpListener;
use tower_http::services::ServeDir;
use tower_http::set_header::SetResponseHeaderLayer;

/// Serves a folder on 127.0.0.1, with byte ranges and each file's MIME type, until the process is stopped.
///
/// Browsers revalidate every file, so that a reload shows the latest build.
pub fn serve(folder: &Path, port: u16) -> Result<()> {
    let revalidate = SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let site = Router::new().fallback_service(ServeDir::new(folder)).layer(revalidate);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let address = (Ipv4Addr::LOCALHOST, port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on 127.0.0.1:{port}; choose another port with --port"))?;
        println!("serving http://{}/ (Ctrl-C stops)", listener.local_addr()?);
        axum::serve(listener, site).await.context("the server stopped")
    })
}
