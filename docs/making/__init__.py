"""What the site has of the code: pages made of it while it is built, and their places in the navigation."""
