-- Who may open the ports of a sandbox in a browser. NULL is whatever the server's configuration says.
ALTER TABLE sandbox ADD COLUMN preview TEXT CHECK (preview IN ('public', 'private'));
