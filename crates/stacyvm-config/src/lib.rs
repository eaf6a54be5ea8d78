//! What an operator can set, where each value comes from, and what is wrong with it.
//!
//! Owns the keys, their defaults, the search for the file, and the overlay of environment and
//! flags. Does not act on any value and knows no provider. Its one rule: the structs in `model`
//! are the only list of keys; names, types and defaults everywhere else are read off them.
#![forbid(unsafe_code)]

mod check;
mod directories;
mod document;
mod load;
mod model;
mod overlay;
mod problem;
mod secret;
mod suggest;

pub use directories::{default_data_dir, home_dir};
pub use load::{Entry, Loaded, Loader};
pub use model::{
    AcmeConfig, AuthConfig, Config, CustomConfig, DatabaseConfig, DefaultsConfig, DockerConfig,
    E2bConfig, EventsConfig, FirecrackerConfig, ImagesConfig, LimitsConfig, LogFormat, LogLevel,
    LoggingConfig, Mirrors, MockConfig, NativeConfig, NativeNetwork, NetworkMode, Overflow,
    PoolConfig, PoolSecurityConfig, PreviewConfig, PreviewTlsConfig, ProotConfig, ProviderChoice,
    ProvidersConfig, PullPolicy, ServerConfig, TelemetryConfig, TraefikConfig,
};
pub use problem::{ConfigError, Origin, Problem};
pub use secret::Secret;
